"""A site tells once how an adapter does on its examples: bounded, under noise, charged before it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.custody.home import Home
from client.custody.policy import Policy
from client.open_home import OpenHome
from client.site import Site
from client.training.counted import count_right
from privacy.ledger.entries import Begun, Released
from privacy.ledger.ledger_audit import audit_ledger
from privacy.mechanisms.counting import ONE
from privacy.mechanisms.rng import NoiseSource, keyed_source
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Evaluate, Join, Receipt, Reply, Request, Train
from protocol.messages.vector import to_bytes
from simulation.simulated_federation import World
from tasks.data.examples import Batch, Examples
from tasks.task import Outcome
from tests import models, tiny

EPSILON = 0.5


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder, metrics={"epsilon": EPSILON}))


@pytest.fixture
def site(world: World, tmp_path: Path) -> Iterator[Site]:
    return world.site("site-1", home=tmp_path)


def ask(site: Site, **request: Join | Train | Evaluate) -> Reply:
    return Reply.FromString(site.answer(Request(**request).SerializeToString()))


def join(site: Site, manifest: Manifest) -> Reply:
    return ask(site, join=Join(manifest=manifest.content))


def evaluate(site: Site, manifest: Manifest, adapter: np.ndarray) -> Reply:
    return ask(site, evaluate=Evaluate(manifest_digest=manifest.digest, adapter=to_bytes(adapter)))


def charges(home: Path) -> list[Released]:
    entries = audit_ledger(home / "ledger.db").entries
    return [entry.event for entry in entries if isinstance(entry.event, Released)]


def random_adapter(world: World, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=world.initial_adapter.shape).astype(np.float32)


def blank(examples: Examples, index: int) -> Examples:
    """The same examples, one of them with other tokens and the other label."""
    tokens, labels = examples.tokens.copy(), examples.labels.copy()
    start, end = examples.offsets[index : index + 2]
    tokens[start:end] = 1
    labels[index] = 1 - labels[index]
    return replace(examples, tokens=tokens, labels=labels)


def test_the_count_is_that_of_the_predictions(world: World) -> None:
    examples, adapter = world.examples("site-1"), random_adapter(world)
    found = count_right(world.adapted, adapter, examples)
    with torch.no_grad():
        whole = world.adapted.forward(examples.batch(np.arange(len(examples))))
    assert found.bound == ONE
    assert 0 < found.value < len(examples) * ONE
    assert found.value == int(whole.correct.sum()) * ONE


@pytest.mark.parametrize("seed", range(3))
def test_one_example_moves_the_count_by_at_most_one(world: World, seed: int) -> None:
    examples, adapter = world.examples("site-1").take(np.arange(12)), random_adapter(world, seed)
    before = count_right(world.adapted, adapter, examples)
    moved = [
        count_right(world.adapted, adapter, blank(examples, index)).value - before.value
        for index in range(len(examples))
    ]
    assert max(map(abs, moved)) == before.bound


def test_a_text_counts_for_its_share_of_right_tokens() -> None:
    job = models.make_job(task="causal-lm", targets=["q_proj", "v_proj"])
    adapted = models.adapt(models.llama(), job)
    examples = models.make_examples([2, 9, 5, 30])
    adapter = models.random_adapter(adapted)
    found = count_right(adapted, adapter, examples).value
    expected = 0.0
    with torch.no_grad():
        for start, end in itertools.pairwise(examples.offsets):
            tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))
            chosen = adapted.peft(input_ids=tokens[None]).logits[0].argmax(-1)
            expected += float((chosen[:-1] == tokens[1:]).double().mean())
    assert type(found) is int
    assert found / ONE == pytest.approx(expected, abs=1e-6)


def test_each_example_is_answered_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch the others set shape and padding, and so move an answer by rounding."""
    shapes = {}

    forward = world.adapted.forward

    def seen(batch: Batch) -> Outcome:
        assert len(batch) == len(batch.indices) == 1
        shapes[int(batch.indices[0])] = batch.inputs["attention_mask"].shape[1]
        return forward(batch)

    monkeypatch.setattr(world.adapted, "forward", seen)
    examples = world.examples("site-1")
    count_right(world.adapted, world.initial_adapter, examples)
    # As wide as its own length asks for; texts of the tiny job have 8 tokens at most.
    assert shapes == dict.fromkeys(range(len(examples)), 8)


def test_blank_examples_are_right_about_nothing(world: World) -> None:
    examples = world.examples("site-1")
    whole = count_right(world.adapted, world.initial_adapter, examples)
    lengths = examples.sizes.copy()
    lengths[3] = 0
    kept = np.delete(np.arange(len(examples)), 3)
    rest = examples.take(kept)
    blank = replace(rest, offsets=np.concatenate([[0], np.cumsum(lengths)]), labels=examples.labels)
    found = count_right(world.adapted, world.initial_adapter, blank)
    alone = count_right(world.adapted, world.initial_adapter, examples.take(np.array([3])))
    assert found.value == whole.value - alone.value


@pytest.mark.parametrize(
    ("correct", "counted", "loss", "share"),
    [(3, 4, 1.0, 0.75), (4, 4, 1.0, 1.0), (1, 1, math.nan, 0.0), (1, 1, math.inf, 0.0), (0, 0, 1.0, 0.0)],
)
def test_a_share_is_of_the_tokens_and_zero_if_not_finite(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    correct: int,
    counted: int,
    loss: float,
    share: float,
) -> None:
    made = Outcome(
        losses=torch.tensor([loss]), correct=torch.tensor([correct]), counted=torch.tensor([counted])
    )
    monkeypatch.setattr(world.adapted, "forward", lambda _batch: made)
    examples = world.examples("site-1").take(np.arange(8))
    assert count_right(world.adapted, world.initial_adapter, examples).value == 8 * share * ONE


def test_a_wrong_count_beyond_one_is_clipped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a model to count more hits than tries, one example would still weigh one."""
    made = Outcome(losses=torch.ones(1), correct=torch.tensor([7]), counted=torch.tensor([1]))
    monkeypatch.setattr(world.adapted, "forward", lambda _batch: made)
    examples = world.examples("site-1").take(np.arange(8))
    assert count_right(world.adapted, world.initial_adapter, examples).value == 8 * ONE


def test_the_noise_has_the_scale_that_was_asked_for(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole answer. For Laplace noise |x| has mean b and deviation b: over n draws the mean's
    relative deviation is 1/√n = 1/40. Six of these, 15 %, hold the right scale but once in 10^8, and ⅔
    and 3⁄2 of it are 33 % and 50 % away."""
    manifest = world.manifest("run")
    join(site, manifest)
    exact = 17 * ONE
    counted = count_right(world.adapted, world.initial_adapter, world.examples("site-1"))
    monkeypatch.setattr("client.final_round.count_right", lambda *_: replace(counted, value=exact))
    monkeypatch.setattr("client.final_round.reserve", lambda *_, **__: None)
    monkeypatch.setattr(OpenHome, "signed", lambda *_: Receipt())
    sent = [evaluate(site, manifest, world.initial_adapter).evaluated.right for _ in range(1600)]
    draws = (np.array(sent) - exact) / ONE
    scale = np.abs(draws).mean()
    tolerance = 6 / math.sqrt(len(draws))
    for wrong in (1.0, 2 / 3, 3 / 2):
        near = abs(scale * EPSILON / wrong - 1) < tolerance
        assert near == (wrong == 1.0), (scale, wrong)
    assert abs(np.mean(draws)) < 6 * math.sqrt(2 / len(draws)) / EPSILON


def test_a_site_answers_with_its_receipt(world: World, site: Site, tmp_path: Path) -> None:
    manifest = world.manifest("run")
    join(site, manifest)
    evaluated = evaluate(site, manifest, world.initial_adapter).evaluated
    assert evaluated.examples == len(world.examples("site-1"))
    # e^-30 is the chance of noise beyond 30 scales.
    assert -30 / EPSILON < evaluated.right / ONE < evaluated.examples + 30 / EPSILON
    receipt = json.loads(evaluated.receipt.content)
    assert (receipt["purpose"], receipt["round"], receipt["steps"]) == ("metrics", 3, 1)
    assert (receipt["epsilon"], receipt["budget"]) == (EPSILON, EPSILON)
    (charge,) = charges(tmp_path)
    assert (charge.purpose, charge.round, charge.taken) == ("metrics", 3, 1)
    audit = audit_ledger(tmp_path / "ledger.db")
    (begun,) = [entry.event for entry in audit.entries if isinstance(entry.event, Begun)]
    assert (begun.cost.epsilon, begun.cost.delta) == (EPSILON * 1e9, 0)


def test_the_charge_is_on_disk_before_noise_is_drawn(
    world: World, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def source(*_what: object) -> NoiseSource:
        seen.append([charge.purpose for charge in charges(tmp_path)])
        return keyed_source(0, "test")

    monkeypatch.setattr("client.site.fresh_entropy", source)
    manifest = world.manifest("run")
    join(site, manifest)
    assert evaluate(site, manifest, world.initial_adapter).HasField("evaluated")
    assert seen == [["metrics"]]


def test_an_answer_that_failed_stays_charged(
    world: World, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it fails may depend on the examples, so asking again must not be free."""

    def fail(*_arguments: object) -> None:
        raise RuntimeError("patient 17")

    manifest = world.manifest("run")
    join(site, manifest)
    with monkeypatch.context() as patch:
        patch.setattr("client.final_round.count_right", fail)
        refused = evaluate(site, manifest, world.initial_adapter).refused
    assert refused.reason == "the site failed; its own log says how"
    assert len(charges(tmp_path)) == 1
    assert evaluate(site, manifest, world.initial_adapter).refused.budget_spent


def test_a_second_answer_is_refused(world: World, site: Site, tmp_path: Path) -> None:
    manifest = world.manifest("run")
    join(site, manifest)
    evaluate(site, manifest, world.initial_adapter)
    for asked in (site, world.site("site-1", home=tmp_path)):
        refused = evaluate(asked, manifest, random_adapter(world)).refused
        assert refused.budget_spent
        assert "planned for 1 steps here and has taken 1" in refused.reason
    assert len(charges(tmp_path)) == 1


def test_keyed_noise_repeats_and_differs_from_the_trainings(tiny_folder: Path, tmp_path: Path) -> None:
    world = World(tiny.job(tiny_folder, metrics={"epsilon": EPSILON}, seeds={"noise": 3}))
    site, manifest = world.site("site-1", home=tmp_path), world.manifest("run")
    used = []
    keyed = site._keyed_entropy
    site._keyed_entropy = lambda *what: used.append(what) or keyed(*what)
    join(site, manifest)
    fields = {"manifest_digest": manifest.digest, "adapter": to_bytes(world.initial_adapter)}
    for number in (1, 2, 3):
        ask(site, train=Train(round=number, **fields))
    trained = set(used)
    first, second = (evaluate(site, manifest, world.initial_adapter).evaluated.right for _ in range(2))
    assert first == second
    assert used[-1] == used[-2]
    assert used[-1] not in trained
    assert [charge.purpose for charge in charges(tmp_path)] == ["training"] * 3 + ["metrics"]


def test_metrics_leave_the_training_its_budget(world: World, site: Site, tmp_path: Path) -> None:
    """And the training leaves the metrics theirs, whichever comes first."""
    manifest = world.manifest("run")
    join(site, manifest)
    fields = {"manifest_digest": manifest.digest, "adapter": to_bytes(world.initial_adapter)}
    for number in (1, 2, 3):
        assert ask(site, train=Train(round=number, **fields)).HasField("trained")
    assert evaluate(site, manifest, world.initial_adapter).HasField("evaluated")
    assert ask(site, train=Train(round=3, **fields)).refused.budget_spent
    audit = audit_ledger(tmp_path / "ledger.db")
    assert audit.datasets[0].epsilon <= 8.0 + EPSILON
    assert {plan.purpose: plan.taken for plan in audit.plans} == {"training": 6, "metrics": 1}


@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 0.49, 3.0, 100.0])
@pytest.mark.exhaustive(but=1)
def test_any_epsilon_fits_beside_the_training(tiny_folder: Path, tmp_path: Path, epsilon: float) -> None:
    """The tiny job's δ is large, and metrics that spent a δ would leave the budget's half of it."""
    world = World(tiny.job(tiny_folder, metrics={"epsilon": epsilon}))
    site, manifest = world.site("site-1", home=tmp_path), world.manifest("run")
    assert join(site, manifest).HasField("joined")
    fields = {"manifest_digest": manifest.digest, "adapter": to_bytes(world.initial_adapter)}
    ask(site, train=Train(round=1, **fields))
    receipt = json.loads(evaluate(site, manifest, world.initial_adapter).evaluated.receipt.content)
    assert epsilon * (1 - 1e-12) < receipt["epsilon"] <= epsilon
    assert len(audit_ledger(tmp_path / "ledger.db").plans) == 2


def test_without_metrics_in_the_job_none_leave(tiny_folder: Path, tmp_path: Path) -> None:
    world = World(tiny.job(tiny_folder))
    site, manifest = world.site("site-1", home=tmp_path), world.manifest("run")
    join(site, manifest)
    refused = evaluate(site, manifest, world.initial_adapter).refused
    assert refused.reason == "the job asks for no metrics: metrics.epsilon=0"
    assert not charges(tmp_path)


def test_metrics_before_joining_are_refused(world: World, site: Site) -> None:
    refused = evaluate(site, world.manifest("run"), world.initial_adapter).refused
    assert "send Join first" in refused.reason


@pytest.mark.parametrize("content", [b"", b"\0" * 4])
def test_an_odd_adapter_is_refused_and_costs_nothing(
    world: World, site: Site, tmp_path: Path, content: bytes
) -> None:
    manifest = world.manifest("run")
    join(site, manifest)
    refused = ask(site, evaluate=Evaluate(manifest_digest=manifest.digest, adapter=content)).refused
    assert "bytes, got" in refused.reason
    assert not charges(tmp_path)


@pytest.mark.parametrize("allowed", [0.0, 0.49])
def test_a_policy_that_allows_less_refuses_at_joining(
    world: World, site: Site, tmp_path: Path, allowed: float
) -> None:
    home = Home(tmp_path)
    rules = home.read_policy().rules.model_copy(update={"metrics_epsilon": allowed})
    home.write_policy(home.read_policy().model_copy(update={"rules": rules}))
    manifest = world.manifest("run")
    assert f"rules.metrics_epsilon: expected metrics.epsilon={allowed:g} at most" in (
        join(site, manifest).refused.reason
    )
    assert "has not joined" in evaluate(site, manifest, world.initial_adapter).refused.reason


def test_a_budget_for_the_training_alone_refuses_at_joining(
    world: World, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the run would train, and have nothing left for what it asked for."""
    home = Home(tmp_path)
    budget = home.read_policy().budget.model_copy(update={"epsilon": 8.0})
    home.write_policy(home.read_policy().model_copy(update={"budget": budget}))
    assert "budget.epsilon_per_run" in join(site, world.manifest("run")).refused.reason
    # The ledger says so too, where earlier runs left too little for both.
    monkeypatch.setattr(Policy, "check", lambda *_arguments: None)
    assert join(site, world.manifest("run")).refused.budget_spent
