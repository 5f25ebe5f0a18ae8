"""Noise that the coordinator adds: as much as the plan says, for one site of the sum, and new each time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.accounting.central_site_plan import CentralSitePlan, make_central_site_plan
from privacy.mechanisms.clipping import STEPS
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source, keyed_entropy
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import to_bytes
from protocol.sums.update_encoding import make_encoding, plan_for_site
from server.post.post import Exchange
from server.sums import masked_sums
from server.sums.central_noise import NoisyMean, central_entropy, noisy_decoded_mean
from server.sums.sums import PlainSums
from tests.server.masked import SITES, MaskedPost, masked_folder
from tests.server.runs import LAYOUT, make_job
from tests.server.scripted import go

SIZE = 20_000
CENTRAL = {"unit": "site", "noise": "central", "clipping_norm": 0.5}


def central_job(**sections: Any) -> Job:
    return make_job(privacy=CENTRAL, strategy={"name": "ffa"}, **sections)


def manifest(job: Job, *, run: str = "run") -> Manifest:
    return Manifest(
        run=run,
        job=job,
        cohort=3,
        labels=("bad", "good"),
        model_digest="ab" * 32,
        layout_digest=LAYOUT.digest,
    )


def is_std(values: np.ndarray, expected: float) -> bool:
    """Of n Gaussian numbers the deviation is found to 1/√(2n): 0.5 % here, and six of those are 3 %."""
    return abs(float(np.std(values)) / expected - 1) < 6 / math.sqrt(2 * len(values))


def unasked(*_: Any, **__: Any) -> Exchange:
    raise AssertionError("sums that anyone can read ask for nothing")


def noise_of_plain_sums(job: Job, *, count: int, number: int = 1) -> np.ndarray:
    """What sums of updates that are zero release."""
    made = manifest(job)
    sums = PlainSums(
        made, update_size=SIZE, plan=plan_for_site(made, update_size=SIZE), take_number=int, ask=unasked
    )
    zero = pb.Trained(update=to_bytes(np.zeros(SIZE, np.float32)))
    sites = [f"site-{n}" for n in range(count)]
    kept = {site: sums.take(site, pb.Reply(site=site, trained=zero)).trained for site in sites}
    return sums.aggregate(kept, {}, number)


def noisy_mean(updates: list[np.ndarray], *, plan: CentralSitePlan, source: ChaCha20Source) -> np.ndarray:
    mean = NoisyMean(plan)
    for update in updates:
        mean.add(update)
    return mean.release(source)


def std_of(plan: CentralSitePlan, *, count: int) -> float:
    return plan.mechanism.multiplier * plan.clipping_norm / count


@pytest.fixture(scope="module")
def plan() -> CentralSitePlan:
    return plan_for_site(manifest(central_job()), update_size=SIZE)


@pytest.mark.parametrize("share", [2 / 3, 3 / 2])
@pytest.mark.parametrize("count", [2, 3])
def test_other_noise_would_be_noticed(plan: CentralSitePlan, count: int, share: float) -> None:
    found = noise_of_plain_sums(central_job(), count=count)
    assert not is_std(share * found, std_of(plan, count=count))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_noise_is_for_one_site_in_the_sum(plan: CentralSitePlan, count: int) -> None:
    """One site weighs its clipping norm in the sum, and so many times less in the mean."""
    found = noise_of_plain_sums(central_job(), count=count)
    assert is_std(found, std_of(plan, count=count))
    for other in {1, 2, 3} - {count}:
        assert not is_std(found, std_of(plan, count=other))


@pytest.mark.parametrize(("epsilon", "rounds"), [(1.0, 2), (8.0, 2), (8.0, 20)])
def test_the_noise_is_that_of_the_jobs_plan(epsilon: float, rounds: int) -> None:
    job = make_job(
        privacy=CENTRAL | {"epsilon": epsilon}, strategy={"name": "ffa"}, training={"rounds": rounds}
    )
    planned = make_central_site_plan(
        noisy=True, epsilon=epsilon, delta=1e-5, clipping_norm=0.5, releases=rounds
    )
    assert planned.epsilon <= epsilon
    assert is_std(noise_of_plain_sums(job, count=3), std_of(planned, count=3))


class Counted(ChaCha20Source):
    """Draws nothing, and remembers the deviations that it was asked for."""

    def __init__(self) -> None:
        super().__init__(bytes(32))
        self.asked: list[float] = []

    def discrete_gaussian(self, size: int, *, std: float) -> np.ndarray:
        self.asked.append(std)
        return np.zeros(size, np.int64)


def test_the_mean_is_in_it(plan: CentralSitePlan) -> None:
    updates = [0.4 * np.eye(1, SIZE, place, dtype=np.float32)[0] for place in range(3)]
    found = noisy_mean(updates, plan=plan, source=Counted())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.mean(updates, axis=0), rtol=1e-6)


def test_a_site_that_sends_more_than_its_norm_weighs_no_more(plan: CentralSitePlan) -> None:
    honest = 0.5 * np.eye(1, SIZE, dtype=np.float32)[0]
    for sent in (honest, 1e30 * honest):
        found = noisy_mean([sent, np.zeros(SIZE, np.float32)], plan=plan, source=Counted())
        np.testing.assert_allclose(found[0], 0.25, rtol=2.0**-19)
    spoilt = honest.copy()
    spoilt[7] = np.nan
    assert not noisy_mean([spoilt], plan=plan, source=Counted()).any()


def test_noise_and_sum_are_integers_of_the_norm_s_grid(plan: CentralSitePlan) -> None:
    """As for a step of a site: no output is impossible, whoever is in the sum."""
    source = Counted()
    found = noisy_mean([np.full(SIZE, 1e-3, np.float32)], plan=plan, source=source)
    planned = plan.mechanism.multiplier * STEPS
    assert planned < source.asked[0] < planned + 10
    steps = found.astype(np.float64) * (STEPS / plan.clipping_norm)
    # float32 keeps 24 bits of 32: the steps that they stand for are whole to 2^-24 of them.
    np.testing.assert_allclose(steps, np.trunc(1e-3 * STEPS / 0.5), rtol=2.0**-23)


def test_without_noise_there_is_none() -> None:
    job = make_job(privacy=CENTRAL | {"mechanism": "none"}, strategy={"name": "ffa"})
    assert not noise_of_plain_sums(job, count=3).any()


def test_the_noise_is_drawn_anew_for_each_sum() -> None:
    """Of a round that is repeated too: the first sum may have been read."""
    entropy = central_entropy(manifest(central_job()))
    seeds = {entropy(number, 0, "sum").seed() for number in (1, 1, 2, 2)}
    assert len(seeds) == 4
    same = [noise_of_plain_sums(central_job(), count=3) for _ in range(2)]
    assert not (same[0] == same[1]).all()


def test_a_simulation_may_repeat_it() -> None:
    keyed = [central_entropy(manifest(central_job(seeds={"noise": seed}))) for seed in (5, 6)]
    first = keyed[0](1, 0, "sum").seed()
    assert keyed[0](1, 0, "sum").seed() == first
    # Other rounds, other seeds and the sites themselves draw something else.
    others = [keyed[0](2, 0, "sum"), keyed[1](1, 0, "sum")]
    others += [keyed_entropy(5, site)(1, 0, "update") for site in ("site-1", "north")]
    assert first not in {source.seed() for source in others}
    job = central_job(seeds={"noise": 5})
    repeated = [noise_of_plain_sums(job, count=3, number=number) for number in (1, 1, 2)]
    assert (repeated[0] == repeated[1]).all()
    assert not (repeated[0] == repeated[2]).any()


def test_under_masks_the_rounding_is_hidden_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's integers may be longer than its clipped update: noise for the norm alone would be short."""
    folder = masked_folder(tmp_path / "run", privacy=CENTRAL)
    post = MaskedPost(folder, {("west", "train", 2): None})
    told: list[dict[str, Any]] = []

    def noted(words: np.ndarray, **how: Any) -> np.ndarray:
        noisy, plain = noisy_decoded_mean(words, **how), how["encoding"].mean(words, count=how["count"])
        told.append(how | {"added": noisy - plain})
        return noisy

    monkeypatch.setattr(masked_sums, "noisy_decoded_mean", noted)
    go(folder, post)
    plan = plan_for_site(folder.manifest, update_size=LAYOUT.update_size)
    assert [one["count"] for one in told] == [5, 4, 4]
    adapters = [folder.load_adapter(number, LAYOUT) for number in range(4)]
    for number, one in enumerate(told, start=1):
        assert one["plan"] == plan
        sites = SITES if number == 1 else SITES[:-1]
        # Clipped to half their norm of 1, rounded by less than a step each, and in float32.
        mean = np.mean([post.update(site, number) / 2 for site in sites], axis=0)
        moved = adapters[number] - adapters[number - 1]
        size = np.abs(adapters[number]).max() + np.abs(adapters[number - 1]).max() + 1
        step = 2 / one["encoding"].scale
        np.testing.assert_allclose(moved, mean + one["added"], atol=step + 2.0**-19 * size)
        assert np.abs(one["added"]).min() > 0


def test_under_masks_the_noise_is_for_the_longest_integers_of_a_site() -> None:
    made = manifest(make_job(privacy=CENTRAL, strategy={"name": "ffa"}, aggregation={"kind": "masks"}))
    plan = plan_for_site(made, update_size=LAYOUT.update_size)
    encoding = make_encoding(made, update_size=LAYOUT.update_size, number=1, plan=plan)
    longest = encoding.sensitivity(0.5).l2
    assert longest > 0.5 * encoding.scale, "integers are longer than what they stand for"
    source = Counted()
    words = encoding.words(np.arange(encoding.dimension))
    found = noisy_decoded_mean(words, encoding=encoding, plan=plan, count=3, source=source)
    assert np.array_equal(found, encoding.mean(words, count=3))
    planned = Mechanism(name="gaussian", multiplier=plan.mechanism.multiplier).multiplier * longest
    assert planned < source.asked[0] < planned + 10
