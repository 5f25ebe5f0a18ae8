"""A job whose texts may be longer than its model can take: a round would fail when a long one is drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from client.agent.site_host import SiteHost
from client.custody.site_file import read_site_file
from client.planning import plan_here
from client.training.gradients import HookedGradients
from client.training.training import Trainer
from client.training.unit_check import check_privacy_unit
from privacy.errors import ModelError
from protocol.job.job import TrainingSection
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from server.job_context import Workplace
from simulation.simulated_federation import World
from tasks.model.adapted_model import AdaptedModel
from tasks.registry import section_of
from tests import models, tiny
from tests.adversary.hostile_models import change_json
from tests.client.agents import SITE, Coordinator, write_site
from tests.client.sites import charges

ROWS = 40  # of the table of positions


def write_encoder(folder: Path, kind: str) -> int:
    """A tiny model of this kind with the tiny tokenizer; how many tokens a text may have."""
    tiny.write_model(folder)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=17,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=ROWS,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    return ROWS - 1 if kind == "Roberta" else ROWS


class Place:
    """A folder with a model, whose manifests a coordinator makes up, and data with a long text or none."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.limit = folder, write_encoder(folder / "model", kind)
        self.sites = 0
        self.world = World(tiny.job(folder))

    def manifest(self, max_length: int) -> Manifest:
        changes: dict[str, Any] = {"data": {"max_length": max_length}, "training": {"batch_size": 240}}
        return replace(self.world.manifest("run"), job=tiny.job(self.folder, **changes))

    def ask(self, manifest: Manifest, *, long: bool) -> tuple[Reply, Reply, Path]:
        """What a new site answers to Join and to a round in which every text is drawn, and its home."""
        rows = tiny.rows()
        if long:
            rows[17] = (" ".join(["good"] * 80), *rows[17][1:])
        self.sites += 1
        data = tiny.write_csv(self.folder / f"data-{self.sites}.csv", rows)
        coordinator = Coordinator()
        source = {"source": str(data), "label": "label", "labels": ["no", "yes"]}
        home = self.folder / f"home-{self.sites}"
        path = write_site(home, self.folder, coordinator.identity, data={"data": source})
        resident = SiteHost(home, read_site_file(path), planner=plan_here)

        def answer(envelope: bytes) -> Reply:
            public = coordinator.identity.public
            opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
            return Reply.FromString(resident.answer(opened))

        joined = answer(coordinator.join(manifest))
        return joined, answer(coordinator.train(manifest, self.world)), home


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("kind", ["Roberta", "Bert"])
def test_a_site_refuses_it_before_data_with_a_long_text_and_without(tmp_path: Path, kind: str) -> None:
    place = Place(tmp_path, kind)
    for max_length in (place.limit + 1, 64, 32_768):
        manifest, answers = place.manifest(max_length), []
        for long in (False, True):
            joined, trained, home = place.ask(manifest, long=long)
            expected = f"data.max_length={max_length}: expected {place.limit} at most"
            assert expected in joined.refused.reason
            assert "Join first" in trained.refused.reason
            assert charges(home) == []
            answers.append((joined.SerializeToString(), trained.SerializeToString()))
        assert answers[0] == answers[1]


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_at_the_limit_a_round_takes_texts_of_all_lengths(tmp_path: Path, kind: str) -> None:
    place = Place(tmp_path, kind)
    for long in (False, True):
        joined, trained, _ = place.ask(place.manifest(place.limit), long=long)
        assert joined.HasField("joined"), joined.refused.reason
        assert trained.HasField("trained"), trained.refused.reason


@pytest.mark.parametrize("make", [World, Workplace.load])
def test_a_coordinator_is_told_when_it_loads_the_model(
    tiny_folder: Path, make: Callable[[Any], Any]
) -> None:
    with pytest.raises(ModelError, match=r"data\.max_length=17: expected 16 at most"):
        make(tiny.job(tiny_folder, data={"max_length": 17}))
    make(tiny.job(tiny_folder, data={"max_length": 16}))


def test_a_config_that_says_more_than_the_table_has_is_not_believed(tmp_path: Path) -> None:
    """The weights would not fit it; and the padding that positions are counted by is the tokenizer's."""
    place = Place(tmp_path, "Roberta")
    change_json(
        tmp_path / "model" / "config.json", lambda table: table.update(max_position_embeddings=ROWS + 1)
    )
    with pytest.raises(ModelError, match=r"is \(40, 16\) in the weights and \(41, 16\) in the model"):
        World(tiny.job(tmp_path, model={"source": str(tmp_path / "model")}))
    later = shutil.copytree(tmp_path / "model", tmp_path / "later")
    change_json(
        later / "config.json", lambda table: table.update(max_position_embeddings=ROWS, pad_token_id=9)
    )
    job = tiny.job(tmp_path, model={"source": str(later)}, data={"max_length": place.limit})
    with pytest.raises(
        ModelError, match="counts positions by the padding 9, and the tokenizer pads with 0"
    ):
        World(job)


# What a model is tried on is as long as any text, and as wide as any batch.


@pytest.mark.parametrize("max_length", [2, 3, 8, 33, 64])
@pytest.mark.exhaustive(but=2)
def test_the_probe_is_as_long_as_any_text(max_length: int) -> None:
    case = models.CASES["gpt2-c_attn"]
    adapted = case.adapted(data={"source": "none", "max_length": max_length})
    probe = adapted.probe()
    assert probe.sizes.max() == max_length
    assert probe.sizes.min() == 2
    assert probe.tokens.max() < models.VOCABULARY
    check_privacy_unit(HookedGradients(adapted), probe)


class Fussy(torch.nn.Module):
    """An embedding for texts up to a length, or for batches up to a width, and nothing that tells so."""

    def __init__(self, inner: torch.nn.Module, *, widest: int) -> None:
        super().__init__()
        self.inner, self.widest, self.weight = inner, widest, inner.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if tokens.shape[1] > self.widest:
            raise ValueError(f"no more than {self.widest}")
        embedded: torch.Tensor = self.inner(tokens)
        return embedded


def limited(adapted: AdaptedModel, limit: int | None) -> None:
    """As if this were what the model says that it can take."""
    section = section_of(
        models.make_job(targets=["q_proj"], data=dict(adapted.spec.data) | {"source": "none"})
    )
    adapted.sizes = adapted.task.sizes(replace(adapted.base, limit=limit), section)


@pytest.mark.parametrize(("widest", "passes"), [(40, True), (39, False), (37, False), (36, False)])
def test_what_fails_at_full_length_or_width_fails_at_joining(widest: int, passes: bool) -> None:
    """Texts of 37 tokens are in batches 40 wide."""
    adapted = models.CASES["llama-qv"].adapted(data={"source": "none", "max_length": 37})
    limited(adapted, None)  # as for a model that sets no limit
    base = adapted.peft.get_base_model()
    base.set_input_embeddings(Fussy(base.get_input_embeddings(), widest=widest))
    trainer = Trainer(HookedGradients(adapted))
    assert adapted.sizes.public[-1] == 40
    if passes:
        check_privacy_unit(trainer.gradients, adapted.probe())
        return
    with pytest.raises(ModelError, match=f"no more than {widest}.* data.max_length"):
        check_privacy_unit(trainer.gradients, adapted.probe())


def test_no_batch_is_wider_than_the_model_can_take() -> None:
    for limit, max_length, widest in ((39, 37, 39), (64, 37, 40), (64, 64, 64), (None, 37, 40)):
        case = models.CASES["llama-qv"]
        adapted = case.adapted(data={"source": "none", "max_length": max_length})
        limited(adapted, limit)
        trainer = Trainer(HookedGradients(adapted))
        assert adapted.sizes.public[-1] == widest
        examples = models.make_examples([max_length, 2])
        shapes = trainer.shapes(TrainingSection(batch_size=2, physical_batch_size=2), None)
        batches = list(shapes.batches(examples, np.arange(2)))
        assert max(batch.inputs["input_ids"].shape[1] for batch in batches) == widest
