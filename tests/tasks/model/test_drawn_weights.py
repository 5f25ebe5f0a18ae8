"""What a checkpoint lacks: drawn from the seed, exactly, told, and refused where it is more than a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from privacy.errors import ModelError
from tasks.model.drawn_weights import DrawnWeights
from tests.adversary.hostile_models import change_json
from tests.tasks.model.checkpoints import ENCODER, load, write_checkpoint

LACKING: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "bert without pooler": ("BertForMaskedLM", ENCODER, ("bert.pooler.dense",)),
    "roberta's head": ("RobertaModel", ENCODER, ("classifier.dense",)),
    "deberta's pooler": ("DebertaV2Model", ENCODER, ("pooler.dense",)),
}


@pytest.mark.parametrize("name", LACKING)
def test_two_loads_have_one_digest_whatever_else_was_drawn(name: str, tmp_path: Path) -> None:
    kind, config, drawn = LACKING[name]
    folder = write_checkpoint(tmp_path, kind, **config)
    torch.manual_seed(1)
    first = load(folder)
    torch.manual_seed(2)
    torch.randn(3)
    before = torch.get_rng_state()
    second = load(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.digest == second.digest
    assert first.drawn == drawn
    assert first.remarks == (
        f"The checkpoint lacks {drawn[0]}: drawn from seeds.adapter = 0, not trained, and written into "
        "exports.",
    )
    weight = first.model.get_submodule(drawn[0]).weight
    # Of 16 inputs, so σ = 1/4. Of 256 draws the deviation is within 5 of its own errors, σ/√512.
    assert abs(float(weight.std()) - 0.25) < 5 * 0.25 / 512**0.5
    other = load(folder, seeds={"adapter": 1})
    assert other.digest != first.digest
    assert not torch.equal(other.model.get_submodule(drawn[0]).weight, weight)


def test_a_whole_checkpoint_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "BertModel", **ENCODER)
    assert load(folder).digest == load(folder, seeds={"adapter": 1}).digest
    assert load(folder).remarks == ()


def test_the_numbers_are_the_same_on_every_machine() -> None:
    """Written down once: NumPy's PCG64 and IEEE 754 leave no room for others."""
    layer = nn.Linear(2, 2)
    with DrawnWeights(7).all_kinds() as draws, torch.no_grad():
        nn.init.normal_(layer.weight, mean=1.0, std=0.5)
        nn.init.uniform_(layer.bias, -1.0, 1.0)
    assert draws.names(layer) == ("weight", "bias")
    # Nine digits tell float32 numbers apart.
    numbers = [*layer.weight.flatten().tolist(), *layer.bias.tolist()]
    assert [f"{number:.9g}" for number in numbers] == [
        "0.101570331",
        "0.115800783",
        "1.27644885",
        "0.38412568",
        "-0.629849851",
        "0.534091711",
    ]


@pytest.mark.parametrize(
    ("kind", "config", "changed", "reason"),
    [
        ("BertModel", ENCODER, {"num_hidden_layers": 3}, r"lack bert\.encoder\.layer\.2\..* and \d+ more"),
        ("BertModel", ENCODER, {"model_type": "mpnet"}, r"lack mpnet\.encoder\.layer\.0\."),
        ("BertModel", ENCODER, {"intermediate_size": 8}, r"\(32,\) in the weights and \(8,\) in the model"),
        ("BertModel", ENCODER, {"type_vocab_size": 4}, r"token_type_embeddings\.weight is \(2, 16\)"),
    ],
)
def test_weights_of_another_model_are_refused(
    kind: str, config: dict[str, Any], changed: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, kind, **config)
    change_json(folder / "config.json", lambda table: table.update(changed))
    with pytest.raises(ModelError, match=reason):
        load(folder)
