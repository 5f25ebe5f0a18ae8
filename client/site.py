"""A site's logic, with no transport in it: a request comes in as bytes, a reply goes out as bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from client.custody.admission import admit
from client.custody.home import Home
from client.custody.refusal import answer_or_refuse, log_refusal
from client.planning import Planner, plan_here
from client.session import Session, check_manifest, plan_metrics
from client.sums.homomorphic_session import HomomorphicSession
from client.sums.masked_session import MaskedSession
from client.sums.release import Sender
from client.sums.residual import Residual
from client.sums.summing import KINDS, answer_about_sum, open_sum_session
from client.training.cancellation import Between, no_pause, within
from client.training.counted import count_right
from client.training.training import Trainer
from client.training.unit_check import check_privacy_unit
from privacy.accounting.plan import Plan
from privacy.errors import ConfideError, ProtocolError
from privacy.identity import Identity
from privacy.ledger.entries import Purpose
from privacy.ledger.ledger import Charge, Ledger
from privacy.ledger.receipt import Receipt, sign_receipt
from privacy.mechanisms.rng import NoiseSource, fresh_source
from protocol.job.job import Job
from protocol.job.manifest import Manifest, read_manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import from_bytes
from protocol.sums.mask_messages import METRICS_RING, asked_to_evaluate
from protocol.sums.update_encoding import update_noise_std
from tasks.data.examples import Examples
from tasks.model.frozen_prefix import Activations

# Where the noise of (round, step) comes from.
Entropy = Callable[[int, int], NoiseSource]


class Site:
    """One party with data.

    ``answer`` is its whole interface. It refuses, with the reason, whatever it cannot stand for: a
    manifest that its custodian's policy does not allow, a model or layout that differs from the
    manifest's, a model that fails the privacy-unit check, a step that its ledger has no room for.
    ``digests`` name its examples, bytes[32] each; ``home`` is where it keeps its policy, its key and its
    ledger, which may be open already. ``peers`` are the identity keys of all sites, by name, that it would
    mask with. ``between`` is called between steps, ``planner`` finds a run's noise, and ``clock`` gives
    seconds. What it keeps secret of sums outlives the process
    unless ``forgetful``.
    """

    def __init__(
        self,
        *,
        name: str,
        examples: Examples,
        digests: Sequence[bytes],
        labels: tuple[str, ...],
        trainer: Trainer,
        activations: Activations,
        home: Home,
        peers: Callable[[], Mapping[str, bytes]],
        keyed_entropy: Entropy | None = None,
        ledger: Ledger | None = None,
        between: Between = no_pause,
        planner: Planner = plan_here,
        clock: Callable[[], float] = time.monotonic,
        forgetful: bool = False,
    ) -> None:
        self.name = name
        self._examples = examples
        self._digests = digests
        self._labels = labels
        self._trainer = trainer
        self._home = home
        self._peers = peers
        self._forgetful = forgetful
        self._keyed_entropy = keyed_entropy
        self._activations = activations
        self._identity: Identity | None = None
        self._opened = ledger
        self._between = between
        self._planner = planner
        self._clock = clock
        self._registered: int | None = None
        self._session: Session | None = None

    def answer(self, content: bytes) -> bytes:
        """Answer one serialized Request with one serialized Reply; raises StoppedError alone."""
        return answer_or_refuse(self.name, lambda: self.reply(pb.Request.FromString(content)))

    def reply(self, request: pb.Request) -> pb.Reply:
        """Answer one Request. Raises the ConfideError that it is refused with."""
        kind = request.WhichOneof("kind")
        if kind == "join":
            return pb.Reply(site=self.name, joined=self._join(request.join))
        if kind not in KINDS | {"train", "evaluate"}:
            raise ProtocolError("the request is of a kind that this version does not know")
        session = self._session_of(getattr(request, kind).manifest_digest)
        # Before anything is charged or leaves. An entry's hash is salted: who was never told it knows none.
        if request.head:
            session.ledger.check_holds(request.head.hex())
        if kind == "train":
            return pb.Reply(site=self.name, trained=self._train(session, request.train))
        if kind == "evaluate":
            return pb.Reply(site=self.name, evaluated=self._evaluate(session, request.evaluate))
        return answer_about_sum(session, request, site=self.name)

    def _join(self, request: pb.Join) -> pb.Joined:
        manifest = read_manifest(request.manifest)
        ledger = self._ledger()
        try:
            session = self._open_session(manifest, request.signature, ledger)
        except ConfideError as error:
            log_refusal(ledger, manifest, error)
            raise
        self._home.keep(manifest, request.signature, charged=ledger.charged())
        # Last: a site that refused to join has no session to train in.
        self._session = session
        joined = pb.Joined(
            manifest_digest=manifest.digest,
            public_key=self._signer().public,
            noise_std=update_noise_std(manifest.job, session.plan),
        )
        sums = session.sender.sums
        if sums is not None:
            member = sums.join()
            joined.session_key, joined.session_signature = member.key, member.signature
        return joined

    def _ledger(self) -> Ledger:
        if self._opened is None:
            # Whoever asks without an envelope is in this very process, and has no other clock.
            self._opened = self._home.open_ledger(self.name, self._signer(), seen=time.time())
        return self._opened

    def _signer(self) -> Identity:
        """The site's key, read when it is first needed."""
        if self._identity is None:
            self._identity = self._home.identity()
        return self._identity

    def _allowed(self, manifest: Manifest, signature: bytes, ledger: Ledger) -> int:
        """Ask the policy and the custodian: the data set's number."""

        def register() -> int:
            self._registered = self._registered or ledger.register(self._digests)
            return self._registered

        return admit(manifest, signature, home=self._home, ledger=ledger, register=register)

    def _open_session(self, manifest: Manifest, signature: bytes, ledger: Ledger) -> Session:
        """Check a manifest against the policy and what is here, plan its noise, see that it fits."""
        dataset = self._allowed(manifest, signature, ledger)
        job, adapted = manifest.job, self._trainer.adapted
        check_manifest(
            manifest,
            adapted,
            labels=self._labels,
            examples=len(self._examples),
            simulated=self._keyed_entropy is not None,
        )
        size = adapted.layout.update_size
        planned = self._planner(manifest, len(self._examples), size)
        plan, training = planned.plan, planned.training
        self._home.policy.check_cost(plan)
        sums = self._secrets(manifest) if job.secure_aggregation != "none" else None
        residual = Residual(size) if job.compression.kind != "none" else None
        session = Session(
            manifest=manifest,
            signature=signature,
            plan=plan,
            training=training,
            sender=Sender(
                manifest=manifest,
                update_size=size,
                plan=plan,
                sums=sums,
                residual=residual,
            ),
            metrics=plan_metrics(job),
            ledger=ledger,
            dataset=dataset,
        )
        if session.plan.mechanism.name != "none" and self._keyed(job) is None:
            ledger.check_fits(
                dataset,
                run=manifest.run,
                manifest=session.digest,
                plan=session.plan,
                metrics=session.metrics,
            )
        check_privacy_unit(self._trainer, adapted.probe())
        return session

    def _secrets(self, manifest: Manifest) -> MaskedSession | HomomorphicSession:
        return open_sum_session(
            manifest,
            site=self.name,
            identity=self._signer(),
            peers=self._peers(),
            path=None if self._forgetful else self._home.secrets_path(manifest),
        )

    def _train(self, session: Session, request: pb.Train) -> pb.Trained:
        job, layout = session.manifest.job, self._trainer.adapted.layout
        if not 1 <= request.round <= job.training.rounds:
            raise ProtocolError(f"expected a round from 1 to {job.training.rounds}, got {request.round}")
        adapter = from_bytes(request.adapter, size=layout.adapter_size)
        # Nothing is charged for a round that will not be begun, or whose update could not leave.
        session.sender.check(request)
        self._between(0, job.training.local_steps)
        receipt = self._reserve(session, session.plan, request.round)
        update = self._trainer.train(
            adapter,
            self._examples,
            training=job.training,
            plan=session.training,
            hidden=session.hidden,
            round_number=request.round,
            entropy=self._keyed(job) or _fresh,
            activations=self._activations if self._activations.work else None,
            between=within(self._home.policy.rules.longest_round, self._between, clock=self._clock),
        )
        # Steps count from 0: none has this number, nor the metrics'.
        source = (self._keyed(job) or _fresh)(request.round, job.training.local_steps + 1)
        trained = session.sender.reply(update, request, source)
        trained.receipt.CopyFrom(receipt)
        return trained

    def _evaluate(self, session: Session, request: pb.Evaluate) -> pb.Evaluated:
        job, adapted, plan = session.manifest.job, self._trainer.adapted, session.metrics
        if plan is None:
            raise ProtocolError("the job asks for no metrics: metrics.epsilon=0")
        adapter = from_bytes(request.adapter, size=adapted.layout.adapter_size)
        last = job.training.rounds
        sums = session.sender.sums
        if isinstance(sums, MaskedSession):
            sums.check(request.cohort, asked=asked_to_evaluate(request), round_number=last + 1)
        receipt = self._reserve(session, plan, last, purpose="metrics")
        right = count_right(adapted, adapter, self._examples)
        # Steps count from 0: none of the training has this number.
        source = (self._keyed(job) or _fresh)(last, job.training.local_steps)
        released = right.release(plan.mechanism, source)
        if not isinstance(sums, MaskedSession):
            return pb.Evaluated(right=released, examples=len(self._examples), receipt=receipt)
        words = METRICS_RING.words(np.array([released, len(self._examples)], np.int64))
        masked, _ = sums.contribute(
            request.cohort,
            words,
            asked=asked_to_evaluate(request),
            ring=METRICS_RING,
            round_number=last + 1,
        )
        return pb.Evaluated(masked=masked, receipt=receipt)

    def _keyed(self, job: Job) -> Entropy | None:
        """Where noise that repeats comes from, if the job asks for that."""
        return self._keyed_entropy if job.seeds.noise is not None else None

    def _reserve(
        self, session: Session, plan: Plan, number: int, *, purpose: Purpose = "training"
    ) -> pb.Receipt:
        """Write a round's steps, or the metrics, into the ledger, and a receipt for them."""
        manifest, job = session.manifest, session.manifest.job
        run, digest = manifest.run, session.digest
        training = purpose == "training"
        steps = job.steps_a_round if training else 1
        if plan.mechanism.name == "none":
            taken, epsilon = number * steps, None
            head = session.ledger.record_unprotected(
                dataset=session.dataset, run=run, manifest=digest, round_number=number
            )
        else:
            charge = Charge(
                dataset=session.dataset,
                run=run,
                manifest=digest,
                plan=plan,
                round=number,
                steps=steps,
                purpose=purpose,
                keyed=self._keyed(job) is not None,
            )
            reserved = session.ledger.reserve(charge)
            taken, head = reserved.taken, reserved.head
            # One release of Laplace noise has this ε at δ = 0, and so it is charged.
            epsilon = plan.epsilon_after(taken) if training else 1 / plan.mechanism.multiplier
        receipt = Receipt(
            site=self.name,
            run=run,
            manifest=digest,
            round=number,
            plan=plan,
            steps=steps,
            taken=taken,
            epsilon=epsilon,
            budget=job.privacy.epsilon if training else job.metrics.epsilon,
            head=head,
            purpose=purpose,
        )
        signed = sign_receipt(self._signer(), receipt)
        return pb.Receipt(content=signed.content, signature=signed.signature)

    def _session_of(self, digest: bytes) -> Session:
        """The session of a run that was joined, by this process or by an earlier one.

        The custodian may have changed the policy since: it is asked again each time.
        """
        session = self._session
        if session is not None and session.manifest.digest == digest:
            self._allowed(session.manifest, session.signature, session.ledger)
            if session.sender.sums is not None:
                session.sender.sums.know(self._peers())
        else:
            kept = self._home.manifest(digest)
            if kept is None:
                raise ProtocolError("the site has not joined this run: send Join first")
            self._session = None
            session = self._session = self._open_session(*kept, self._ledger())
        return session


def _fresh(_round: int, _step: int) -> NoiseSource:
    return fresh_source()
