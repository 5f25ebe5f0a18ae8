"""A site's logic, with no transport in it: a request comes in as bytes, a reply goes out as bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from client.custody.admission import admit
from client.custody.home import Home
from client.custody.policy import Policy
from client.final_round import measure
from client.first_adapter import first_adapter, keep_joined
from client.host import Host, LocalData, Materials
from client.local_round import begin_round, end_round
from client.open_home import Enquiry, OpenHome
from client.planning import Planner, plan_here
from client.refusal import answer_or_refuse
from client.reservation import reserve
from client.session import Session, check_drawn, check_manifest, counted, on_a_mix, plan_metrics
from client.sums.open_sums import open_sums
from client.sums.sum_session import Party
from client.training.cancellation import Between, no_pause, within
from client.training.unit_check import UnitCheck, check_privacy_unit
from client.work import Work
from privacy.errors import ProtocolError
from privacy.mechanisms.rng import Entropy, fresh_entropy
from privacy.secagg.sealing import PairKeys
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.envelope import Header
from protocol.messages.message_kinds import kind_of
from protocol.processes.time_spent import Part, timed
from protocol.sums.update_encoding import update_noise_std


class Site:
    """One party with data.

    ``answer`` is its whole interface. It refuses, with the reason, whatever it cannot stand for: a
    manifest that its custodian's policy does not allow, a model or layout that differs from the
    manifest's, a model that fails the privacy-unit check, a step that its ledger has no room for. The
    policy is read once a request, and holds for all of it.

    ``host`` finds its data and models; ``home`` is where it keeps its policy, its key and its ledger.
    ``peers`` are the identity keys of all sites, by name, that it would mask with. ``between`` is called
    between steps, ``planner`` finds a run's noise, ``check_unit`` refuses a model whose gradients are not
    those of single examples, and ``clock`` gives seconds. What it keeps secret of sums outlives the process
    unless ``forgetful``. What a ``candid`` one refuses with is as its custodian would read it. Sites that
    share a process may share ``pairs``.
    """

    def __init__(
        self,
        *,
        name: str,
        host: Host,
        home: Home,
        peers: Callable[[], Mapping[str, bytes]],
        keyed_entropy: Entropy | None = None,
        between: Between = no_pause,
        planner: Planner = plan_here,
        check_unit: UnitCheck = check_privacy_unit,
        clock: Callable[[], float] = time.monotonic,
        forgetful: bool = False,
        candid: bool = False,
        pairs: PairKeys | None = None,
    ) -> None:
        self.name = name
        self._host = host
        self._home = home
        self.own = OpenHome(home, site=name)  # for whatever else answers for the site in this process
        self._peers = peers
        self._forgetful = forgetful
        self._candid = candid
        self._pairs = pairs
        self._keyed_entropy = keyed_entropy
        self._between = between
        self._planner = planner
        self._check_unit = check_unit
        self._clock = clock
        self._session: Session | None = None

    def answer(self, content: bytes) -> bytes:
        """Answer one serialized Request with one serialized Reply; raises StoppedError alone."""
        return answer_or_refuse(
            self.name, lambda: self.reply(pb.Request.FromString(content)), candid=self._candid
        )

    def reply(self, request: pb.Request, *, header: Header | None = None) -> pb.Reply:
        """Answer one Request. Raises the ConfideError that it is refused with.

        ``header`` is that of the envelope it came in, None for who asks in this very process.
        """
        if request.HasField("train"):
            work = self.prepare(request, header=header)
            return pb.Reply(site=self.name, trained=self.complete(work, work.train()))
        kind = kind_of(request)
        session, policy = self._admit(request, header)
        if kind.of_sum:
            reply = session.sums.answer(request)
            reply.site = self.name
            return reply
        if kind.request == "evaluate":
            return pb.Reply(site=self.name, evaluated=self._evaluate(session, policy, request.evaluate))
        return pb.Reply(site=self.name, joined=self._join(session))

    def _admit(self, request: pb.Request, header: Header | None) -> tuple[Session, Policy]:
        """The session that a request is about, and the policy, as it was read for this request, once."""
        session = self._session
        held = None if session is None else (session.manifest, session.signature)
        enquiry = self.own.enquire(request, header, held=held)
        with self.own.admitting(enquiry):
            return self._admitted(enquiry), enquiry.policy

    def _admitted(self, enquiry: Enquiry) -> Session:
        """The session of a run that policy and custodian allow now, whether this process has one or not."""
        manifest, ledger, join = enquiry.manifest, enquiry.ledger, enquiry.join
        data: list[LocalData] = []
        held = None if join is not None else self._held(manifest)

        def register() -> int:
            if held is not None:  # whose data were found, and its keys checked, when it was joined
                return held.dataset
            data.append(found := self._host.find_data(manifest))
            return self.own.register(ledger, found)

        dataset = admit(
            manifest,
            enquiry.signature,
            policy=enquiry.policy,
            home=self._home,
            ledger=ledger,
            register=register,
            shown=None if join is None else (join.last, self.own.identity().public),
        )
        if held is not None:
            held.sums.know_peers(self._peers)
            return held
        start = first_adapter(self._home, manifest, join)
        # Not before: a run that is refused leaves the others their model. Memory may have room for one.
        self._session = None
        materials = self._host.load_materials(manifest, data[0], start)
        session = self._open_session(enquiry, dataset, materials)
        if join is not None:
            keep_joined(self._home, manifest, join, charged=ledger.charged(), start=start)
        # Last: a site that refused has no session to train in.
        self._session = session
        return session

    def _held(self, manifest: Manifest) -> Session | None:
        session = self._session
        return session if session is not None and session.manifest.digest == manifest.digest else None

    def _join(self, session: Session) -> pb.Joined:
        joined = pb.Joined(
            manifest_digest=session.manifest.digest,
            public_key=self.own.identity().public,
            noise_std=update_noise_std(session.manifest.job, session.plan),
        )
        session.sums.join(joined)
        return joined

    def _open_session(self, enquiry: Enquiry, dataset: int, materials: Materials) -> Session:
        """Check a manifest against what is here, plan its noise, see that it fits."""
        manifest, ledger = enquiry.manifest, enquiry.ledger
        job, trainer, examples = manifest.job, materials.trainer, len(materials.examples)
        check_manifest(
            manifest,
            trainer.adapted,
            site=self.name,
            labels=materials.labels,
            examples=examples,
            simulated=self._keyed_entropy is not None,
        )
        size = trainer.adapted.layout.update_size
        planned = self._planner(manifest, counted(job, materials), size, manifest.planned_rounds(self.name))
        enquiry.policy.check_cost(planned.plan)
        session = Session(
            manifest=manifest,
            signature=enquiry.signature,
            materials=materials,
            plan=planned.plan,
            training=on_a_mix(planned.training, job, materials.parts),
            sums=open_sums(
                manifest,
                update_size=size,
                plan=planned.plan,
                party=self._party(manifest),
                ledger=ledger,
            ),
            metrics=plan_metrics(job),
            ledger=ledger,
            dataset=dataset,
            memory=self._home.memory(manifest),
            stream=self._home.noise_stream(manifest, planned.training, materials.digests, self._keyed(job)),
        )
        if session.plan.protects and self._keyed(job) is None:
            with timed(Part.LEDGER):
                ledger.check_fits(
                    dataset,
                    run=manifest.run,
                    manifest=session.digest,
                    plan=session.plan,
                    metrics=session.metrics,
                )
        self._check_unit(trainer.gradients, trainer.adapted.probe())
        return session

    def _party(self, manifest: Manifest) -> Party:
        return Party(
            site=self.name,
            identity=self.own.identity(),
            peers=self._peers,
            secrets=None if self._forgetful else self._home.secrets_path(manifest),
            pairs=self._pairs,
        )

    def prepare(self, asked: pb.Request, *, header: Header | None = None) -> Work:
        """The first half of a round: admit it, see that it can be trained and sent, reserve what it costs.

        Raises as ``reply`` does.
        """
        session, policy = self._admit(asked, header)
        request, job = asked.train, session.manifest.job
        if not 1 <= request.round <= job.training.rounds:
            raise ProtocolError(f"expected a round from 1 to {job.training.rounds}, got {request.round}")
        check_drawn(session.manifest, self.name, request.round)
        start = begin_round(session, request)
        # Nothing is charged for a round that will not be begun, or whose update could not leave.
        session.sums.check(request)
        self._between(0, job.phase_of(request.round).training.local_steps)
        session.open_stream()
        keyed = self._keyed(job) is not None
        return Work(
            session=session,
            request=request,
            start=start,
            receipt=reserve(session, session.plan, request.round, site=self.name, keyed=keyed),
            entropy=self._entropy(job),
            between=self._between,
            longest=policy.rules.longest_round,
            clock=self._clock,
        )

    def complete(self, work: Work, trained: NDArray[np.float32]) -> pb.Trained:
        """The last half of a round: what leaves of what was ``trained``, with its receipt.

        ``trained`` is float32[update_size + local_size]; what stays of it is on the disk before it leaves.
        """
        number = work.request.round
        update = end_round(work.session, work.start, trained, site=self.name, round_number=number)
        source = work.entropy(number, 0, "update")
        reply = work.session.sums.contribute(update, work.request, source)
        reply.receipt.CopyFrom(self.own.signed(work.receipt))
        work.session.close_stream(work.receipt)
        return reply

    def _evaluate(self, session: Session, policy: Policy, request: pb.Evaluate) -> pb.Evaluated:
        job, plan = session.manifest.job, session.metrics
        if plan is None:
            raise ProtocolError("the job asks for no metrics: metrics.epsilon=0")
        check_drawn(session.manifest, self.name, job.training.rounds)
        session.sums.check_metrics(request)
        between = within(policy.rules.longest_round, self._between, clock=self._clock)
        keyed, source = self._keyed(job) is not None, self._entropy(job)
        evaluated, receipt, own_steps = measure(
            session, plan, request, site=self.name, keyed=keyed, entropy=source, between=between
        )
        evaluated.receipt.CopyFrom(self.own.signed(receipt))
        if own_steps is not None:
            evaluated.own_steps.CopyFrom(self.own.signed(own_steps))
        return evaluated

    def _keyed(self, job: Job) -> Entropy | None:
        """Where noise that repeats comes from, if the job asks for that."""
        return self._keyed_entropy if job.seeds.noise is not None else None

    def _entropy(self, job: Job) -> Entropy:
        return self._keyed(job) or fresh_entropy
