"""A site's logic, with no transport in it: a request comes in as bytes, a reply goes out as bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from client.spending import RECORD, Spending
from client.training import Trainer
from client.unit_check import check_privacy_unit
from privacy.errors import BudgetError, ConfideError, DataError, ProtocolError, RunError
from privacy.noise import NoiseSource, fresh_source
from privacy.plan import Plan, make_plan
from protocol.confide_pb2 import Join, Joined, Refused, Reply, Request, Train, Trained
from protocol.durable import write_durably
from protocol.examples import Examples
from protocol.frozen_prefix import Activations
from protocol.manifest import Manifest, read_manifest
from protocol.task import probe_examples
from protocol.vector import from_bytes, to_bytes

log = logging.getLogger("confide.site")

# Where the noise of (round, step) comes from.
Entropy = Callable[[int, int], NoiseSource]


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What a site holds of the run that it joined."""

    manifest: Manifest
    plan: Plan
    spending: Spending


class Site:
    """One party with data.

    ``answer`` is its whole interface. It refuses, with the reason, whatever it cannot stand for: a
    model or layout that differs from the manifest's, a model that fails the privacy-unit check, a
    step beyond the plan. ``home`` is the folder that the site keeps its own records in.
    """

    def __init__(
        self,
        *,
        name: str,
        examples: Examples,
        labels: tuple[str, ...],
        trainer: Trainer,
        activations: Activations,
        home: Path,
        keyed_entropy: Entropy | None = None,
    ) -> None:
        self.name = name
        self._examples = examples
        self._labels = labels
        self._trainer = trainer
        self._home = home
        self._keyed_entropy = keyed_entropy
        self._activations = activations
        self._session: _Session | None = None

    def answer(self, content: bytes) -> bytes:
        """Answer one serialized Request with one serialized Reply; never raises."""
        try:
            request = Request.FromString(content)
            kind = request.WhichOneof("kind")
            if kind == "join":
                reply = Reply(site=self.name, joined=self._join(request.join))
            elif kind == "train":
                reply = Reply(site=self.name, trained=self._train(request.train))
            else:
                raise ProtocolError("the request is of a kind that this version does not know")
        except DecodeError as error:
            reply = self._refuse(ProtocolError(f"the request cannot be parsed: {error}"))
        except ConfideError as error:
            reply = self._refuse(error)
        except OSError as error:
            log.exception("%s failed", self.name)
            reply = self._refuse(RunError(f"the site cannot write its records: {error.strerror}"))
        except Exception:
            # Its text may quote an example, and whoever asked must not read that.
            log.exception("%s failed", self.name)
            reply = self._refuse(RunError("the site failed; its own log says how"))
        return bytes(reply.SerializeToString())

    def _refuse(self, error: ConfideError) -> Reply:
        spent = isinstance(error, BudgetError)
        refused = Refused(reason=str(error), exit_code=error.exit_code, budget_spent=spent)
        return Reply(site=self.name, refused=refused)

    def _join(self, request: Join) -> Joined:
        manifest = read_manifest(request.manifest)
        kept = self._home / "manifest.json"
        if kept.exists() and kept.read_bytes() != manifest.content:
            raise ProtocolError(
                "this home belongs to another run: a site holds one run to its plan, so that no second "
                "manifest can spend beyond the first"
            )
        if kept.exists() and not (self._home / RECORD).exists():
            # The record is made before the manifest is kept: without it, what was spent is unknown.
            raise ProtocolError(f"the site's record of its steps is lost: its home has no {RECORD}")
        session = self._open_session(manifest)
        check_privacy_unit(self._trainer, probe_examples(self._trainer.adapted))
        session.spending.create()
        self._keep(manifest)
        # Last: a site that refused to join has no session to train in.
        self._session = session
        return Joined(manifest_digest=manifest.digest)

    def _open_session(self, manifest: Manifest) -> _Session:
        """Check the manifest against what this site has, and plan its noise."""
        job, adapted = manifest.job, self._trainer.adapted
        if not len(self._examples):
            raise DataError("the site has no examples: use fewer sites or another partition")
        if manifest.base_digest != adapted.base_digest:
            raise ProtocolError(
                f"the base model differs: expected SHA-256 {manifest.base_digest[:16]}…, this site "
                f"has {adapted.base_digest[:16]}…; install the same weights everywhere"
            )
        if manifest.layout_digest != adapted.layout.digest:
            raise ProtocolError("the adapter's layout differs: use the same versions everywhere")
        if manifest.labels != self._labels:
            # Compared with what the site declares, never with what its rows hold: a refusal is a release.
            raise ProtocolError(
                f"the labels differ: expected {', '.join(self._labels)}, in this order, got "
                f"{', '.join(manifest.labels)}"
            )
        if job.seeds.noise is not None and self._keyed_entropy is None:
            raise ProtocolError(
                "seeds.noise makes the noise predictable, and so protects nobody: only a simulation "
                "may set it"
            )
        return _Session(
            manifest=manifest,
            plan=make_plan(
                mechanism=job.privacy.mechanism,
                epsilon=job.privacy.epsilon,
                delta=job.privacy.delta,
                clipping_norm=job.privacy.clipping_norm,
                expected_batch_size=job.training.batch_size,
                examples=len(self._examples),
                steps=job.training.total_steps,
            ),
            spending=Spending(self._home / RECORD),
        )

    def _train(self, request: Train) -> Trained:
        session = self._session or self._reopen()
        if request.manifest_digest != session.manifest.digest:
            raise ProtocolError("the round belongs to another manifest than the one joined")
        job, layout = session.manifest.job, self._trainer.adapted.layout
        if not 1 <= request.round <= job.training.rounds:
            raise ProtocolError(f"expected a round from 1 to {job.training.rounds}, got {request.round}")
        adapter = from_bytes(request.adapter, size=layout.adapter_size)
        keyed = self._keyed_entropy if job.seeds.noise is not None else None
        steps = job.training.local_steps
        taken = session.spending.charge(
            round_number=request.round,
            steps=steps,
            limit=session.plan.steps,
            repeatable=keyed is not None,
        )
        update = self._trainer.train(
            adapter,
            self._examples,
            training=job.training,
            plan=session.plan,
            round_number=request.round,
            entropy=keyed or (lambda _round, _step: fresh_source()),
            activations=self._activations if self._activations.work else None,
        )
        return Trained(
            round=request.round,
            update=to_bytes(update),
            epsilon=session.plan.epsilon_after(taken),
        )

    def _keep(self, manifest: Manifest) -> None:
        """Remember the manifest beyond this process."""
        self._home.mkdir(parents=True, exist_ok=True)
        write_durably(self._home / "manifest.json", manifest.content)

    def _reopen(self) -> _Session:
        """Join again, in this process, the run that an earlier process joined."""
        kept = self._home / "manifest.json"
        if not kept.exists():
            raise ProtocolError("the site has not joined this run: send Join before Train")
        self._join(Join(manifest=kept.read_bytes()))
        if self._session is None:
            raise ProtocolError("the site could not join this run again")
        return self._session
