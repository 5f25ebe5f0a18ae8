"""A rule on how likely a text is: by the model's own probabilities, and by its own row alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from client.custody.data_set import read_data_set
from client.custody.gate import let_in
from client.custody.site_file import DataSource, read_site_file
from privacy.errors import DataError, JobError
from privacy.identity import Identity
from tasks.data.density_rule import DensityRule
from tasks.data.rows import Rows
from tasks.data.text_gate import TextGate
from tasks.registry import find_task, gate_of
from tasks.text_density import TextDensity
from tests.client.agents import write_site
from tests.confide.test_site_commands import Terminal, call
from tests.tiny_chat import write_model

__all__ = ["call"]

TEXTS = ("a moon at noon", "owl", "zzzzzzzz qqqqqqq", "the sun is up and the day is long", "x")
TASK = find_task("causal-lm")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("density") / "model")


@pytest.fixture(scope="module")
def density(model: Path) -> TextDensity:
    return TextDensity.load(DensityRule(model=str(model), tokens=16))


def rules(model: Path, **keys: Any) -> TextGate:
    return TextGate.model_validate({"density": {"model": str(model), "tokens": 16, **keys}})


def test_it_is_the_mean_log_probability_of_the_tokens_from_the_second_one_on(
    model: Path, density: TextDensity
) -> None:
    network, tokenizer = (kind.from_pretrained(model) for kind in (AutoModelForCausalLM, AutoTokenizer))
    text = TEXTS[3]
    tokens = tokenizer(text)["input_ids"][:16]
    assert len(tokens) == 16  # cut off
    with torch.no_grad():
        logs = network(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
    expected = np.mean([logs[place, token].item() for place, token in enumerate(tokens[1:])])
    assert density.of(text) == pytest.approx(expected, abs=1e-5)


def test_what_has_no_density_stays_out_whatever_it_is(density: TextDensity) -> None:
    assert density.of("") is None  # one token, which is the tokenizer's own
    assert density.fault("") == "the gate: its model makes nothing of it"


def ordered(density: TextDensity) -> dict[str, float]:
    """The texts' densities, the least likely first."""
    known = {text: density.of(text) or 0.0 for text in TEXTS}
    return dict(sorted(known.items(), key=lambda one: one[1]))


def alone(judge: Any) -> bool:
    """Whether what a judge says of each text is the same, to the bit, whatever texts are beside it."""
    apart = [judge([text])[0] for text in TEXTS]
    return judge(TEXTS) == apart and judge(TEXTS[::-1]) == apart[::-1]


def test_a_text_is_judged_by_itself_to_the_last_bit(density: TextDensity) -> None:
    assert alone(lambda texts: [density.of(text) for text in texts])


def test_a_rule_that_compares_texts_with_one_another_is_caught(density: TextDensity) -> None:
    def beside_the_mean(texts: Any) -> list[float | None]:
        found = [density.of(text) for text in texts]
        known = [one for one in found if one is not None]
        return [None if one is None else one - float(np.mean(known)) for one in found]

    assert not alone(beside_the_mean)


def test_rows_outside_the_ends_are_blank_and_the_custodian_is_told_how_texts_are_spread(
    model: Path, density: TextDensity
) -> None:
    known = ordered(density)
    order = list(known.values())
    lowest, highest = np.mean(order[:2]), np.mean(order[1:3])
    rows = Rows(contents=(*TEXTS, None))
    found = let_in(rows, task=TASK, rules=rules(model, lowest=float(lowest), highest=float(highest)))
    assert [text for text in found.contents if text is not None] == [[*known][1]]
    assert sum("less likely than" in why for why in found.faults.values()) == 1
    assert sum("likelier than" in why for why in found.faults.values()) == len(order) - 2
    (said,) = found.remarks
    assert said.startswith(f"the gate's model gives {len(order)} texts, in nats a token")
    assert f"{order[0]:.2f}" in said


def test_without_ends_nothing_with_a_density_stays_out(model: Path) -> None:
    found = let_in(Rows(contents=TEXTS[:4]), task=TASK, rules=rules(model))
    assert found.contents == TEXTS[:4]


def test_words_are_looked_at_first(model: Path) -> None:
    gate = TextGate.model_validate({"least_words": 2, "density": {"model": str(model), "tokens": 16}})
    found = let_in(Rows(contents=("owl",)), task=TASK, rules=gate)
    assert dict(found.faults) == {0: "the gate: fewer than 2 words"}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "density.model"),
        ({"model": "m", "lowest": -1.0, "highest": -2.0}, "lowest: expected no more than highest"),
        ({"model": "hub:org/name"}, "expected a folder or package:NAME/PATH"),
        ({"model": "m", "lowest": 1.0}, "density.lowest"),
        ({"model": "m", "least": -1.0}, "density.least"),
    ],
)
def test_wrong_keys_are_told(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(JobError) as error:
        gate_of("causal-lm", {"density": keys}, under="gate")
    assert told in str(error.value)


def test_a_model_that_is_not_there_is_told_to_the_custodian(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\ngood day\n")
    gate = {"density": {"model": str(tmp_path / "gone")}}
    source = DataSource(source=str(tmp_path / "rows.csv"), task="causal-lm", gate=gate)
    with pytest.raises(DataError, match=r"\[data\.notes\.gate\.density\] .*there is no such folder"):
        read_data_set("notes", source)


def test_more_tokens_than_the_model_takes_are_told(model: Path) -> None:
    with pytest.raises(Exception, match=r"tokens=100: expected 64 at most"):
        TextDensity.load(DensityRule(model=str(model), tokens=100))


def test_a_model_beside_the_site_file_is_found_and_the_check_shows_counts(
    call: Terminal, tmp_path: Path, tiny_folder: Path, density: TextDensity
) -> None:
    known = ordered(density)
    home = tmp_path / "home"
    write_model(home / "judge")
    (home / "rows.csv").write_text("text\n" + "\n".join(TEXTS) + "\n")
    gate = {"density": {"model": "judge", "lowest": sum([*known.values()][:2]) / 2, "tokens": 16}}
    table = {"source": str(home / "rows.csv"), "task": "causal-lm", "gate": gate}
    path = write_site(home, tiny_folder, Identity.generate(), data={"data": table})
    assert read_site_file(path).data["data"].gate["density"]["model"] == str(home / "judge")
    code, output, _ = call("site", "check", path, "--json")
    assert code == 0
    (found,) = json.loads(output)["data"]
    assert [*found["blank"].values()] == [[TEXTS.index(next(iter(known))) + 1]]
    assert any(said.startswith("the gate's model gives 5 texts") for said in found["oddities"])
