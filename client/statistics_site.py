"""A site's part in a run of statistics: counts of its examples, charged, under noise, and under masks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.custody.admission import admit
from client.custody.home import Home
from client.refusal import log_refusal
from client.sums.masked_session import MaskedSession
from client.sums.sum_session import Party
from privacy.accounting.sampled_plan import SampledPlan, make_histogram_plan
from privacy.errors import ConfideError, DataError, ProtocolError
from privacy.ledger.ledger import Charge, Ledger
from privacy.ledger.receipt import Receipt, SignedReceipt, sign_receipt
from privacy.mechanisms.histograms import count_places
from privacy.mechanisms.rng import Entropy, fresh_entropy
from protocol.job.manifest import Manifest
from protocol.job.statistics_section import StatisticsSection
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import METRICS_RING

ROUND = 1  # the one release of such a run


@dataclass(frozen=True, kw_only=True)
class CountedRows:
    """A site's examples as they are counted: the ``places`` of each, int64[n, k], and its ``digests``.

    ``asked`` is what they were counted for, ``sizes`` are the histograms' public numbers of bins, and
    ``digests`` bytes[32] an example.
    """

    alias: str
    asked: StatisticsSection
    digests: tuple[bytes, ...]
    places: NDArray[np.int64]
    sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Joined:
    manifest: Manifest
    asked: StatisticsSection
    plan: SampledPlan
    ledger: Ledger
    dataset: int


class StatisticsSite:
    """One site in a run of statistics.

    Guarantee: what leaves is (ε, δ)-differentially private for one example made blank, at
    ``statistics.epsilon`` and ``privacy.delta``, whatever the coordinator and the other sites do. Each
    example is in one bin of each histogram at most (``privacy.mechanisms.histograms``), all histograms are
    one Gaussian release, and its whole cost is in the ledger before its noise is drawn. It is given once a
    run. Policy, custodian and ledger say no before anything is counted.

    ``home``, ``peers`` and ``keyed`` are as a ``Site`` has them.
    """

    def __init__(
        self,
        *,
        name: str,
        home: Home,
        rows: CountedRows,
        peers: Callable[[], Mapping[str, bytes]],
        keyed: Entropy | None = None,
    ) -> None:
        self.name = name
        self._home = home
        self._rows = rows
        self._peers = peers
        self._keyed = keyed
        self._joined: _Joined | None = None
        self._masks: MaskedSession | None = None

    @property
    def public_key(self) -> bytes:
        """What its receipts are signed with."""
        return self._home.identity().public

    @property
    def masks(self) -> MaskedSession:
        """Its part in the sum under masks. Raises ProtocolError for a run without any."""
        if self._masks is None:
            raise ProtocolError("the run's sums are under no masks, or the site has not joined it")
        return self._masks

    def join(self, manifest: Manifest, signature: bytes) -> None:
        """Admit a manifest, plan its noise, and see that its cost fits in what is left; nothing is charged.

        Raises PolicyError, BudgetError, LedgerError, DataError, PlanError or ProtocolError, as its ledger
        then has it.
        """
        policy, home = self._home.read_policy(), self._home
        ledger = home.open_ledger(self.name, home.identity(), policy=policy, seen=time.time())
        try:
            dataset = admit(
                manifest,
                signature,
                policy=policy,
                home=home,
                ledger=ledger,
                register=lambda: ledger.register(self._rows.digests),
                shown=None,
            )
            self._joined = self._plan(manifest, ledger, dataset)
        except ConfideError as error:
            log_refusal(ledger, manifest, error)
            raise
        home.keep(manifest, signature, charged=ledger.charged())
        if manifest.job.aggregation.hidden:
            party = Party(site=self.name, identity=home.identity(), peers=self._peers, secrets=None)
            self._masks = MaskedSession.for_party(manifest, party)

    def _plan(self, manifest: Manifest, ledger: Ledger, dataset: int) -> _Joined:
        asked = manifest.job.statistics
        if asked is None:
            raise ProtocolError("the run asks for no statistics: it has no [statistics]")
        if asked != self._rows.asked:
            raise ProtocolError(
                "statistics: the site counts for other histograms than the manifest asks for"
            )
        if not len(self._rows.places):
            raise DataError("the site has no examples: use fewer sites or another partition")
        if len(self._rows.places) != len(self._rows.digests):
            raise DataError(
                f"expected a digest for each of {len(self._rows.places)} examples, got "
                f"{len(self._rows.digests)}"
            )
        plan = make_histogram_plan(
            histograms=asked.histograms, epsilon=asked.epsilon, delta=manifest.job.privacy.delta
        )
        if self._noise_of(manifest) is None:
            ledger.check_fits(dataset, run=manifest.run, manifest=manifest.digest.hex(), plan=plan)
        return _Joined(manifest=manifest, asked=asked, plan=plan, ledger=ledger, dataset=dataset)

    def count(self, cohort: pb.Cohort | None) -> tuple[bytes, SignedReceipt]:
        """The noisy counts as they leave, 64-bit words of all bins, and the signed receipt for them.

        Under masks they are masked among a ``cohort``; None elsewhere. The charge is on the disk first.
        Where it does not fit, BudgetError is raised, nothing is counted and no noise is drawn. Raises
        ProtocolError for a cohort that the manifest has no masks for, and for none where it has.
        """
        joined = self._now
        manifest, plan = joined.manifest, joined.plan
        if (cohort is not None) != manifest.job.aggregation.hidden:
            raise ProtocolError(
                "expected counts under masks if and only if the manifest has "
                f'aggregation.kind="masks"; it has "{manifest.job.aggregation.kind}"'
            )
        # Before the charge: what could not leave costs nothing.
        if cohort is not None:
            self.masks.check(cohort, asked=asked_to_count(manifest), round_number=ROUND)
        receipt = self._reserve(joined)
        source = (self._noise_of(manifest) or fresh_entropy)(ROUND, 0, "statistics")
        noisy = plan.mechanism.release(count_places(self._rows.places, self._rows.sizes), source)
        words = METRICS_RING.words(noisy)
        if cohort is None:
            return METRICS_RING.pack(words), receipt
        masked, _ = self.masks.contribute(
            cohort, words, asked=asked_to_count(manifest), ring=METRICS_RING, round_number=ROUND
        )
        return masked, receipt

    def _reserve(self, joined: _Joined) -> SignedReceipt:
        manifest, digest = joined.manifest, joined.manifest.digest.hex()
        charge = Charge(
            dataset=joined.dataset,
            run=manifest.run,
            manifest=digest,
            plan=joined.plan,
            round=ROUND,
            steps=1,
            purpose="statistics",
            keyed=self._noise_of(manifest) is not None,
        )
        reserved = joined.ledger.reserve(charge)
        receipt = Receipt(
            site=self.name,
            run=manifest.run,
            manifest=digest,
            round=ROUND,
            plan=joined.plan,
            steps=1,
            taken=reserved.taken,
            epsilon=joined.plan.epsilon_after(reserved.taken),
            budget=joined.asked.epsilon,
            head=reserved.head,
            purpose="statistics",
        )
        return sign_receipt(self._home.identity(), receipt)

    def _noise_of(self, manifest: Manifest) -> Entropy | None:
        """Where noise that repeats comes from, if a simulation's job asks for that.

        Raises ProtocolError at a site that is none of a simulation's.
        """
        if manifest.job.seeds.noise is None:
            return None
        if self._keyed is None:
            raise ProtocolError(
                "seeds.noise makes the noise predictable, and so protects nobody: only a simulation may "
                "set it"
            )
        return self._keyed

    @property
    def _now(self) -> _Joined:
        if self._joined is None:
            raise ProtocolError("the site has not joined this run")
        return self._joined

    def close(self) -> None:
        """Close the ledger; what is charged is on the disk anyway."""
        if self._joined is not None:
            self._joined.ledger.close()


def asked_to_count(manifest: Manifest) -> bytes:
    """A digest of what a sum of counts is of, 32 bytes: masks cancel out among sites asked for the same."""
    return hashlib.sha256(b"confide statistics\0" + manifest.digest).digest()
