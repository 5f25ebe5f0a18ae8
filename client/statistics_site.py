"""A site's part in a run of statistics: counts of its examples, charged, under noise, and under masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from client.custody.admission import admit
from client.custody.home import Home
from client.host import LocalData
from client.open_home import Enquiry, OpenHome
from client.refusal import answer_or_refuse
from client.sums.masked_session import MaskedSession
from client.sums.sum_session import Party
from privacy.accounting.sampled_plan import SampledPlan, make_histogram_plan
from privacy.errors import DataError, ProtocolError
from privacy.ledger.ledger import Charge, Ledger
from privacy.ledger.receipt import Receipt
from privacy.mechanisms.histograms import count_places
from privacy.mechanisms.rng import Entropy, fresh_entropy
from privacy.secagg.ring import Words
from protocol.job.manifest import Manifest, read_manifest
from protocol.job.statistics_section import STATISTICS_ROUND, StatisticsSection
from protocol.messages import confide_pb2 as pb
from protocol.messages.envelope import Header
from protocol.messages.message_kinds import kind_of
from protocol.sums.mask_messages import METRICS_RING, asked_to_count
from tasks.asked_statistics import Asked, asked_of, places_of
from tasks.registry import find_task, section_of

if TYPE_CHECKING:
    from tasks.data.rows import Rows


@dataclass(frozen=True, kw_only=True)
class CountableRows:
    """A site's rows, the ``reader`` that its task makes examples of them with, and its declared labels."""

    rows: Rows
    reader: Any
    labels: tuple[str, ...]


class StatisticsHost(Protocol):
    """Where rows come from: files that a custodian lists, or a simulation's memory."""

    def find_data(self, manifest: Manifest) -> LocalData:
        """The data that a manifest names. Raises ProtocolError if the site has none that fit."""
        ...

    def open_rows(self, manifest: Manifest) -> CountableRows:
        """The same, once it is admitted, and what reads them. Raises ModelError and DataError."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Joined:
    """A run that was joined; ``dataset`` is the data's number in the ledger."""

    manifest: Manifest
    signature: bytes
    asked: StatisticsSection
    histograms: tuple[Asked, ...]
    plan: SampledPlan
    ledger: Ledger
    dataset: int
    rows: CountableRows
    masks: MaskedSession | None

    @property
    def bins(self) -> int:
        """How many counts leave."""
        return sum(one.size for one in self.histograms)


class StatisticsSite:
    """One site in runs of statistics.

    Guarantee: what leaves is (ε, δ)-differentially private for one example made blank, at
    ``statistics.epsilon`` and ``privacy.delta``, whatever the coordinator and the other sites do. Each
    example is in one bin of each histogram at most (``privacy.mechanisms.histograms``), all histograms are
    one Gaussian release, and its whole cost is in the ledger before anything is counted. It is given once a
    run. Policy, custodian and ledger say no before that.

    ``own`` is its home, ``host`` has its rows; ``peers``, ``keyed_entropy``, ``forgetful`` and ``candid``
    are as a ``Site`` has them.
    """

    def __init__(
        self,
        *,
        own: OpenHome,
        host: StatisticsHost,
        peers: Callable[[], Mapping[str, bytes]],
        keyed_entropy: Entropy | None = None,
        forgetful: bool = False,
        candid: bool = False,
    ) -> None:
        self.own = own
        self._host = host
        self._peers = peers
        self._keyed_entropy = keyed_entropy
        self._forgetful = forgetful
        self._candid = candid
        self._joined: _Joined | None = None

    def answer(self, content: bytes) -> bytes:
        """Answer one serialized Request with one serialized Reply."""
        return answer_or_refuse(
            self.own.site, lambda: self.reply(pb.Request.FromString(content)), candid=self._candid
        )

    def reply(self, request: pb.Request, *, header: Header | None = None) -> pb.Reply:
        """Answer one Request. Raises the ConfideError that it is refused with.

        ``header`` is that of the envelope it came in, None for who asks in this very process.
        """
        kind, joined = kind_of(request), self._admit(request, header)
        reply = pb.Reply(site=self.own.site)
        if kind.request == "join":
            reply.joined.CopyFrom(self._join(joined))
        elif kind.request == "count":
            reply.counted.CopyFrom(self._count(joined, request.count))
        elif kind.of_sum and joined.masks is not None:
            self._take_part(joined.masks, request, reply)
        else:
            raise ProtocolError(
                f"asked to {kind.request} in a run of statistics with aggregation.kind="
                f'"{joined.manifest.job.aggregation.kind}": expected to join, to count, and under masks to '
                "deal, confirm and unmask"
            )
        return reply

    def _admit(self, request: pb.Request, header: Header | None) -> _Joined:
        """The run that a request is about, which policy and custodian allow now."""
        known = self._joined
        held = None if known is None else (known.manifest, known.signature)
        enquiry = self.own.enquire(request, header, held=held)
        with self.own.admitting(enquiry):
            return self._admitted(enquiry)

    def _admitted(self, enquiry: Enquiry) -> _Joined:
        manifest, join = enquiry.manifest, enquiry.join
        known = self._joined
        held = known if join is None and known and known.manifest.digest == manifest.digest else None

        def register() -> int:
            if held is not None:
                return held.dataset
            return self.own.register(enquiry.ledger, self._host.find_data(manifest))

        dataset = admit(
            manifest,
            enquiry.signature,
            policy=enquiry.policy,
            home=self.own.home,
            ledger=enquiry.ledger,
            register=register,
            shown=None if join is None else (join.last, self.own.identity().public),
        )
        if held is not None:
            if held.masks is not None:
                held.masks.know_peers(self._peers())
            return held
        self._joined = None
        joined = self._open(enquiry, dataset)
        if join is not None:
            self.own.home.keep(manifest, enquiry.signature, charged=enquiry.ledger.charged())
        self._joined = joined
        return joined

    def _open(self, enquiry: Enquiry, dataset: int) -> _Joined:
        """Check a manifest against what is here, plan its noise, see that it fits; nothing is charged."""
        manifest, asked = enquiry.manifest, enquiry.manifest.job.statistics
        if asked is None:
            raise ProtocolError("the run asks for no statistics: it has no [statistics]")
        rows = self._host.open_rows(manifest)
        if not len(rows.rows):
            raise DataError("the site has no examples: use fewer sites or another partition")
        plan = make_histogram_plan(
            histograms=asked.histograms, epsilon=asked.epsilon, delta=manifest.job.privacy.delta
        )
        # Once it has counted, a process that comes later only helps to uncover the sum.
        counted = manifest.digest.hex() in enquiry.ledger.charged()
        if self._keyed(manifest) is None and not counted:
            enquiry.ledger.check_fits(dataset, run=manifest.run, manifest=manifest.digest.hex(), plan=plan)
        return _Joined(
            manifest=manifest,
            signature=enquiry.signature,
            asked=asked,
            histograms=asked_of(asked, section_of(manifest.job)),
            plan=plan,
            ledger=enquiry.ledger,
            dataset=dataset,
            rows=rows,
            masks=self._masks(manifest) if manifest.job.aggregation.hidden else None,
        )

    def _masks(self, manifest: Manifest) -> MaskedSession:
        secrets = None if self._forgetful else self.own.home.secrets_path(manifest)
        party = Party(site=self.own.site, identity=self.own.identity(), peers=self._peers, secrets=secrets)
        return MaskedSession.for_party(manifest, party)

    def _join(self, joined: _Joined) -> pb.Joined:
        found = pb.Joined(manifest_digest=joined.manifest.digest, public_key=self.own.identity().public)
        if joined.masks is not None:
            member = joined.masks.join()
            found.session_key, found.session_signature = member.key, member.signature
        return found

    def _count(self, joined: _Joined, request: pb.Count) -> pb.Counted:
        """The noisy counts as they leave, and the receipt for them; the charge is on the disk first.

        Where it does not fit, BudgetError is raised, nothing is counted and no noise is drawn. Raises
        ProtocolError for a cohort that the manifest has no masks for, for none where it has, and for
        another number of bins, AggregationError for a sum that this site takes no part in.
        """
        masks, asked = joined.masks, asked_to_count(joined.manifest)
        # Before the charge: what could not leave costs nothing.
        if request.HasField("cohort") != (masks is not None):
            raise ProtocolError(
                "expected counts under masks if and only if the manifest has "
                f'aggregation.kind="masks"; it has "{joined.manifest.job.aggregation.kind}"'
            )
        if request.bins != joined.bins:
            raise ProtocolError(
                f"the manifest's histograms have {joined.bins} bins, and the coordinator asks for "
                f"{request.bins}: use the same versions everywhere"
            )
        if masks is not None:
            masks.check(request.cohort, asked=asked, round_number=STATISTICS_ROUND)
        receipt = self._reserve(joined)
        words = self._noisy_words(joined)
        if masks is None:
            return pb.Counted(counts=METRICS_RING.pack(words), receipt=receipt)
        masked, _ = masks.contribute(
            request.cohort, words, asked=asked, ring=METRICS_RING, round_number=STATISTICS_ROUND
        )
        return pb.Counted(counts=masked, receipt=receipt)

    def _noisy_words(self, joined: _Joined) -> Words:
        """Count each example once in each histogram, and draw the noise of all as one release."""
        rows, job = joined.rows, joined.manifest.job
        places = places_of(
            joined.histograms, rows.rows, reader=rows.reader, task=find_task(job.task), labels=rows.labels
        )
        counts = count_places(places, tuple(one.size for one in joined.histograms))
        source = (self._keyed(joined.manifest) or fresh_entropy)(STATISTICS_ROUND, 0, "statistics")
        return METRICS_RING.words(joined.plan.mechanism.release(counts, source))

    def _reserve(self, joined: _Joined) -> pb.Receipt:
        manifest, digest = joined.manifest, joined.manifest.digest.hex()
        charge = Charge(
            dataset=joined.dataset,
            run=manifest.run,
            manifest=digest,
            plan=joined.plan,
            round=STATISTICS_ROUND,
            steps=1,
            purpose="statistics",
            keyed=self._keyed(manifest) is not None,
        )
        reserved = joined.ledger.reserve(charge)
        return self.own.signed(
            Receipt(
                site=self.own.site,
                run=manifest.run,
                manifest=digest,
                round=STATISTICS_ROUND,
                plan=joined.plan,
                steps=1,
                taken=reserved.taken,
                epsilon=joined.plan.epsilon_after(reserved.taken),
                budget=joined.asked.epsilon,
                head=reserved.head,
                purpose="statistics",
            )
        )

    def _keyed(self, manifest: Manifest) -> Entropy | None:
        """Where noise that repeats comes from, if a simulation's job asks for that.

        Raises ProtocolError at a site that is none of a simulation's.
        """
        if manifest.job.seeds.noise is None:
            return None
        if self._keyed_entropy is None:
            raise ProtocolError(
                "seeds.noise makes the noise predictable, and so protects nobody: only a simulation may "
                "set it"
            )
        return self._keyed_entropy

    @staticmethod
    def _take_part(masks: MaskedSession, request: pb.Request, reply: pb.Reply) -> None:
        """A step of the one sum under masks; after the last no other is to come."""
        if request.HasField("deal"):
            reply.dealing.CopyFrom(masks.deal(request.deal.roster))
        elif request.HasField("confirm"):
            reply.confirmed.signature = masks.confirm(request.confirm)
        elif request.HasField("unmask"):
            reply.unmasked.CopyFrom(masks.reveal(request.unmask)[0])
            masks.forget()
        else:
            raise ProtocolError(
                f"asked to {request.WhichOneof('kind')} in a run of aggregation.kind='masks': its sums "
                "have no such step"
            )


def asks_statistics(request: pb.Request, home: Home) -> bool:
    """Whether a request is about a run of statistics, by its manifest; of a run that is not known, no.

    Raises ProtocolError for a request of no known kind, or to join what is no manifest.
    """
    kind = kind_of(request).request
    if kind == "join":
        return read_manifest(request.join.manifest).job.statistics is not None
    if kind == "count":
        return True
    kept = home.manifest(getattr(request, kind).manifest_digest)
    return kept is not None and kept[0].job.statistics is not None
