"""What leaves of an update: within rounding, clipped and with its share of noise, or some of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.session import plan_training
from client.sums.masked_session import MaskedSession
from client.sums.masked_site import MaskedSite
from client.sums.plain_site import PlainSite
from client.sums.site_sums import SiteSums
from privacy.accounting.plan import Plan
from privacy.accounting.shared_site_plan import SharedSitePlan
from privacy.errors import AggregationError, PlanError, ProtocolError
from privacy.mechanisms.clipping import clip
from privacy.mechanisms.rng import NoiseSource, keyed_source
from privacy.secagg.encoding import Encoding
from privacy.secagg.masks.coordinator_steps import add_up, forward, unmask
from privacy.secagg.ring import Ring, Words
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import from_bytes
from protocol.sums.mask_messages import asked_to_train, make_rules, read_shares, write_cohort, write_roster
from protocol.sums.sparsification import decode_top, draw_support, support_seed
from protocol.sums.update_encoding import make_encoding, plan_for_site, update_noise_std
from tests.client.masked import Federation, listed, make_session, unmask_request
from tests.privacy.exchanges import names
from tests.privacy.grids import rounding_std
from tests.server.runs import make_job

SIZE, SITES, EXAMPLES = 300, 3, 5000
FFA = {"strategy": {"name": "ffa"}}
NONE = {"aggregation": {"kind": "none"}}
SHARED = {"unit": "site", "mechanism": "skellam", "epsilon": 8.0, "delta": 1e-3}


def make_manifest(**sections: Any) -> Manifest:
    return Manifest(
        run="run",
        job=make_job(**({"aggregation": {"kind": "masks"}} | sections)),
        cohort=SITES,
        labels=("bad", "good"),
        model_digest="a" * 64,
        layout_digest="b" * 64,
    )


class Bare:
    """In the place of a masked session: what would be masked leaves as it is."""

    def contribute(
        self,
        _cohort: pb.Cohort,
        words: Words,
        *,
        asked: bytes,
        ring: Ring,
        round_number: int,
        following: object,
    ) -> tuple[bytes, None]:
        return ring.pack(words), None


def plan_of(manifest: Manifest, size: int = SIZE) -> Plan:
    if manifest.job.privacy.unit == "site":
        return plan_for_site(manifest, update_size=size)
    return plan_training(manifest.job, EXAMPLES)


@dataclass(frozen=True, kw_only=True)
class Sender:
    """A site's part in a run's sums, and what its grid follows from."""

    manifest: Manifest
    plan: Plan
    update_size: int
    sums: SiteSums

    def check(self, request: pb.Train) -> None:
        self.sums.check(request)

    def send(
        self, update: NDArray[np.float32], request: pb.Train, source: NoiseSource
    ) -> tuple[bytes, pb.Dealing | None]:
        """What leaves, and the dealing for the next sum where there is one."""
        trained = self.sums.contribute(update, request, source)
        assert trained.round == request.round
        return trained.update, trained.next if trained.HasField("next") else None


def make_sender(manifest: Manifest, masked: Any, plan: Plan | None = None, *, size: int = SIZE) -> Sender:
    """With a session, or something in its place, or none where the coordinator reads each update."""
    plan = plan or plan_of(manifest, size)
    sums: SiteSums = PlainSite(manifest, update_size=size, plan=plan)
    if masked is not None:
        ledger: Any = None  # nothing is uncovered here
        sums = MaskedSite(manifest, update_size=size, plan=plan, session=masked, ledger=ledger)
    return Sender(manifest=manifest, plan=plan, update_size=size, sums=sums)


def grid(manifest: Manifest, plan: Plan, *, number: int = 1, size: int = SIZE) -> Encoding:
    return make_encoding(
        manifest,
        update_size=size,
        number=number,
        noise_std=update_noise_std(manifest.job, plan),
        plan=plan,
    )


def request_of(manifest: Manifest, plan: Plan, *, number: int = 1) -> pb.Train:
    return pb.Train(
        round=number, cohort=pb.Cohort(number=number), noise_std=update_noise_std(manifest.job, plan)
    )


def sent(
    sender: Sender, update: NDArray[np.float32], source: NoiseSource, *, number: int = 1
) -> NDArray[np.int64]:
    """The integers under the masks."""
    encoding = grid(sender.manifest, sender.plan, number=number, size=sender.update_size)
    content, _ = sender.send(update, request_of(sender.manifest, sender.plan, number=number), source)
    return encoding.ring.centred(encoding.ring.unpack(content, size=encoding.dimension))


def draw_update(seed: int, *, norm: float, size: int = SIZE) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=size)
    return (norm / np.linalg.norm(drawn) * drawn).astype(np.float32)


# What does not leave.


@pytest.mark.parametrize("noise_std", [math.nan, math.inf, -1.0, 1e300])
def test_a_grid_that_cannot_be_is_refused_before_training(noise_std: float) -> None:
    """A coordinator may ask for any; with 16 bits the grid follows from it."""
    manifest = make_manifest(aggregation={"modulus_bits": 16})
    sender = make_sender(manifest, make_session(rules=make_rules(manifest)))
    request = request_of(manifest, sender.plan)
    request.noise_std = noise_std
    with pytest.raises((ProtocolError, PlanError), match="noise_std"):
        sender.check(request)


def test_without_a_cohort_nothing_is_trained() -> None:
    manifest = make_manifest()
    session = make_session(rules=make_rules(manifest))
    session.join()
    sender = make_sender(manifest, session)
    with pytest.raises(AggregationError):
        sender.check(pb.Train(round=1))


def test_an_update_that_is_not_finite_does_not_leave_where_its_own_noise_is_in_it() -> None:
    sender = make_sender(make_manifest(), Bare())
    update = draw_update(0, norm=1.0)
    update[3] = np.nan
    with pytest.raises(ProtocolError, match="NaN or infinity"):
        sent(sender, update, keyed_source(0))


# Each site's own noise: the grid changes no more than it says.


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_a_masked_sum_is_the_mean_within_the_stated_rounding(bits: int) -> None:
    manifest = make_manifest(aggregation={"modulus_bits": bits})
    rules, plan = make_rules(manifest), plan_of(manifest)
    sites = names(SITES)
    federation = Federation({site: make_session(site, rules=rules) for site in sites}, rules)
    roster = federation.roster()
    request = request_of(manifest, plan)
    cohorts = forward(roster, federation.deal(roster), asked=asked_to_train(request))
    # As long as training lets it be, and the noise that comes with it.
    noise = update_noise_std(manifest.job, plan)
    longest = manifest.job.training.learning_rate * manifest.job.privacy.clipping_norm
    updates = {
        site: draw_update(seed, norm=longest)
        + np.random.default_rng(seed).normal(0.0, noise, SIZE).astype(np.float32)
        for seed, site in enumerate(sites)
    }
    encoding, masked = grid(manifest, plan), {}
    for seed, site in enumerate(sites):
        sender = make_sender(manifest, federation.sessions[site], plan)
        request.cohort.CopyFrom(write_cohort(cohorts[site], number=1))
        sender.check(request)
        content, following = sender.send(updates[site], request, keyed_source(seed, "rounding"))
        assert following is None
        masked[site] = encoding.ring.unpack(content, size=SIZE)
    shares = {site: federation.reveal(site, roster, cohorts[site], sites) for site in sites}
    words = unmask(
        add_up(masked.values(), ring=encoding.ring, size=SIZE),
        ring=encoding.ring,
        roster=roster,
        cohort=cohorts[sites[0]],
        survivors=sites,
        shares=shares,
    )
    error = encoding.mean(words, count=SITES) - np.mean(list(updates.values()), axis=0)
    # Rounding is subgaussian with this deviation: 6 of it are passed once in 2·e^-18, 3e-8, for each of 300
    # coordinates. Besides, the mean is a float32.
    limit = 6 * rounding_std(encoding, count=SITES) + 1e-6 * np.abs(error + longest).max()
    assert np.abs(error).max() < limit
    # And the grid is fine enough to be of use: far below the noise.
    assert rounding_std(encoding, count=SITES) < 0.05 * noise
    assert (masked[sites[0]] != encoding.words(np.zeros(SIZE, np.int64))).mean() > 0.9


def test_what_is_beyond_reach_is_cut_off_and_does_not_wrap_around() -> None:
    manifest = make_manifest()
    plan = plan_of(manifest)
    encoding, sender = grid(manifest, plan), make_sender(manifest, Bare(), plan)
    assert encoding.reach is not None
    update = np.zeros(SIZE, np.float32)
    update[:4] = [1e30, -1e30, 0.5 * encoding.reach, -0.5 * encoding.reach]
    found = encoding.mean(encoding.words(sent(sender, update, keyed_source(0))), count=1)
    np.testing.assert_allclose(found[:4] / encoding.reach, [1.0, -1.0, 0.5, -0.5], rtol=1e-6)


# Whole sites: clipped integers and one share of noise.


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_without_noise_what_leaves_is_clipped_and_says_what_the_update_said(bits: int) -> None:
    manifest = make_manifest(privacy=SHARED, aggregation={"modulus_bits": bits})
    plan = plan_of(manifest)
    sender, encoding = make_sender(manifest, Bare(), plan), grid(manifest, plan)
    zero = np.zeros(SIZE, np.float32)
    # The same source draws the same seed for rounding, and then the same share of noise.
    noise = sent(sender, zero, keyed_source(1))
    for norm in (0.01, 1.0, 50.0):
        update = draw_update(2, norm=norm)
        ring = encoding.ring
        moved = ring.centred(ring.words(sent(sender, update, keyed_source(1)) - noise))
        bound = encoding.sensitivity(plan.clipping_norm).l2
        assert np.linalg.norm(moved.astype(float)) <= bound
        found = encoding.mean(encoding.words(moved), count=1)
        expected = clip(update, bound=plan.clipping_norm, norm=2).reals
        # Subgaussian rounding, 6 deviations; and roundings of float32.
        limit = 6 * rounding_std(encoding, count=1) + 1e-6
        assert np.abs(found - expected).max() < limit
    assert isinstance(plan, SharedSitePlan)
    assert plan.shared.sensitivity.l2 == encoding.sensitivity(plan.clipping_norm).l2


@pytest.mark.parametrize("update", ["nan", "inf", "mixed"])
def test_an_update_that_is_not_finite_leaves_as_zero_and_nobody_is_told(update: str) -> None:
    manifest = make_manifest(privacy=SHARED)
    sender = make_sender(manifest, Bare())
    spoilt = draw_update(0, norm=1.0)
    spoilt[{"nan": slice(None), "inf": slice(0, 1), "mixed": slice(0, 2)}[update]] = (
        [np.nan, np.inf] if update == "mixed" else float(update)
    )
    zero = sent(sender, np.zeros(SIZE, np.float32), keyed_source(3))
    assert (sent(sender, spoilt, keyed_source(3)) == zero).all()
    assert zero.any()


NOISY = 20_000
# As in tests/privacy/accounting/test_site_plan.py: ln of a sample variance of n draws deviates by √(2/n).
# Six of them err once in 5e8 times, and are 0.06; ln (3⁄2)² is 0.81.
LOG_TOLERANCE = 6 * math.sqrt(2 / NOISY)


def has_deviation(noise: NDArray[np.float64], deviation: float) -> bool:
    return abs(math.log(float(np.mean(noise**2)) / deviation**2)) < LOG_TOLERANCE


@pytest.mark.parametrize("bits", [20, 32])
@pytest.mark.parametrize("colluding", [0, 1])
def test_the_noise_of_honest_sites_adds_up_to_what_the_plan_says(bits: int, colluding: int) -> None:
    aggregation = {"modulus_bits": bits, "colluding": colluding, "threshold": SITES}
    manifest = make_manifest(privacy=SHARED, aggregation=aggregation)
    plan = plan_of(manifest, NOISY)
    sender = make_sender(manifest, Bare(), plan, size=NOISY)
    zero = np.zeros(NOISY, np.float32)
    honest = manifest.min_survivors - colluding
    noise = np.sum([sent(sender, zero, keyed_source(4, site)) for site in range(honest)], axis=0)
    assert isinstance(plan, SharedSitePlan)
    planned = plan.mechanism.multiplier * plan.shared.sensitivity.l2
    assert has_deviation(noise.astype(float), planned)
    for factor in (2 / 3, 3 / 2):
        assert not has_deviation(noise.astype(float), factor * planned)
    # One share alone is less than that.
    assert has_deviation(sent(sender, zero, keyed_source(5)).astype(float), planned / math.sqrt(honest))


def test_with_central_noise_a_site_adds_none() -> None:
    privacy = SHARED | {"mechanism": "gaussian", "noise": "central"}
    manifest = make_manifest(privacy=privacy)
    sender = make_sender(manifest, Bare())
    assert not sent(sender, np.zeros(SIZE, np.float32), keyed_source(0)).any()
    plain = make_manifest(privacy=privacy, aggregation={"kind": "none"})
    content, _ = make_sender(plain, None).send(
        draw_update(0, norm=70.0), pb.Train(round=1), keyed_source(0)
    )
    assert np.linalg.norm(from_bytes(content, size=SIZE)) == pytest.approx(1.0, rel=2.0**-19)


# Less of it at a time.


@pytest.mark.parametrize("masked", [False, True])
def test_under_a_random_support_everything_arrives_in_the_end(masked: bool) -> None:
    """So many rounds that each coordinate is drawn: (3⁄4)^80 · 300 is 3e-8."""
    manifest = make_manifest(
        **FFA,
        compression={"kind": "random", "share": 0.25},
        aggregation={"kind": "masks" if masked else "none"},
    )
    plan, rounds = plan_of(manifest), 80
    sender = make_sender(manifest, Bare() if masked else None, plan)
    arrived, total = np.zeros(SIZE), np.zeros(SIZE)
    for number in range(1, rounds + 1):
        # All comes in the first rounds, within what a grid for one round's update can hold.
        update = draw_update(number, norm=0.05) if number <= 5 else np.zeros(SIZE, np.float32)
        total += update
        support = draw_support(support_seed(manifest.digest, number), size=SIZE, share=0.25)
        request = request_of(manifest, plan, number=number)
        content, _ = sender.send(update, request, keyed_source(6, number))
        if masked:
            encoding = grid(manifest, plan, number=number)
            assert len(content) == encoding.ring.packed_size(75)
            part = encoding.mean(encoding.ring.unpack(content, size=75), count=1)
        else:
            part = from_bytes(content, size=75)
        arrived += support.spread(part)
    # Roundings of 80 rounds at most on a coordinate, each below a grid step; those of float32 besides.
    step = 1 / grid(manifest, plan).scale if masked else 0.0
    np.testing.assert_allclose(arrived, total, atol=rounds * step + 1e-6)


def test_the_largest_coordinates_go_first_and_the_others_follow() -> None:
    manifest = make_manifest(**FFA, **NONE, compression={"kind": "top-k", "share": 0.1})
    sender, update = make_sender(manifest, None), draw_update(7, norm=1.0)
    arrived, zero = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)
    for number in range(1, 11):
        content, dealing = sender.send(
            update if number == 1 else zero, pb.Train(round=number), keyed_source(0)
        )
        assert dealing is None
        part = decode_top(content, size=SIZE, share=0.1)
        assert len(np.flatnonzero(part)) == 30
        if number == 1:
            assert np.abs(part[part != 0]).min() >= np.abs(update[part == 0]).max()
        arrived += part
    assert (arrived == update).all()


def test_what_is_asked_again_sends_nothing_twice() -> None:
    manifest = make_manifest(**FFA, **NONE, compression={"kind": "random", "share": 0.5})
    sender = make_sender(manifest, None)
    update = draw_update(8, norm=1.0)
    first, again = (sender.send(update, pb.Train(round=1), keyed_source(0))[0] for _ in range(2))
    assert first == again


def test_a_clipped_part_holds_its_bound_whatever_waited() -> None:
    manifest = make_manifest(
        **FFA, compression={"kind": "random", "share": 0.5}, privacy=SHARED | {"epsilon": 50.0}
    )
    plan = plan_of(manifest)
    sender, encoding = make_sender(manifest, Bare(), plan), grid(manifest, plan)
    still = make_sender(manifest, Bare(), plan)
    for number in (1, 2, 3):
        found = sent(sender, draw_update(number, norm=20.0), keyed_source(9, number), number=number)
        noise = sent(still, np.zeros(SIZE, np.float32), keyed_source(9, number), number=number)
        moved = encoding.ring.centred(encoding.ring.words(found - noise))
        assert np.linalg.norm(moved.astype(float)) <= encoding.sensitivity(plan.clipping_norm).l2


def test_the_secrets_for_the_next_sum_come_with_the_update() -> None:
    manifest = make_manifest()
    rules, plan = make_rules(manifest), plan_of(manifest)
    sessions = {site: make_session(site, rules=rules) for site in names(SITES)}
    federation = Federation(sessions, rules)
    roster, following = federation.roster(1), federation.roster(2)
    request = request_of(manifest, plan)
    cohorts = forward(roster, federation.deal(roster), asked=asked_to_train(request))
    site, session = names(SITES)[0], federation.sessions[names(SITES)[0]]
    assert isinstance(session, MaskedSession)
    request.cohort.CopyFrom(write_cohort(cohorts[site], number=1))
    request.next.CopyFrom(write_roster(following))
    sender = make_sender(manifest, session, plan)
    sender.check(request)
    _, dealing = sender.send(draw_update(0, norm=1.0), request, keyed_source(0))
    assert dealing is not None
    assert len(dealing.sealed) == SITES - 1
    # What was dealt did not take the place of what is still to be revealed.
    survivors = names(SITES)
    session.confirm(listed(survivors))
    shares, number = session.reveal(unmask_request(roster, cohorts[site], survivors))
    assert set(read_shares(shares, roster)) == set(survivors)
    assert number == 1
