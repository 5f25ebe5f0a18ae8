"""The round loop: join, train, average, evaluate, write; again until done, then metrics if asked for."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from privacy.errors import BudgetError, ConfideError, LostError, ProtocolError, RunError
from protocol.job.layout import AdapterLayout
from protocol.job.manifest import MANIFEST_PURPOSE
from protocol.messages.confide_pb2 import Evaluate, Join, Reply, Request, Train
from protocol.messages.vector import to_bytes
from protocol.processes.json_log import about
from protocol.processes.time_spent import Part, end_lap, timed
from protocol.sums.reply_limits import ReplyLimits
from runs.best_round import has_stopped
from runs.kept_answers import FILE as ANSWERS
from runs.kept_answers import save_answers
from runs.receipts import Receipts, signed
from runs.run_folder import RoundRecord, RunFolder
from runs.spent import last_epsilon
from server.assess_run import keep_assessment
from server.average_rounds import keep_average
from server.evaluation import Evaluator
from server.joining import check_joined
from server.post.post import Exchange, Post
from server.server_optimizer import merge_round
from server.sums.make_sums import make_sums
from tasks.registry import compares_with_start, find_task, section_of
from tasks.task import AnsweringTask

Listener = Callable[[RoundRecord], None]

log = logging.getLogger("confide.rounds")


def run_rounds(
    post: Post,
    folder: RunFolder,
    *,
    layout: AdapterLayout,
    evaluator: Evaluator,
    listener: Listener,
) -> None:
    """Run the rounds that the folder's manifest asks for and that it does not hold yet.

    Each finished round is on disk before the next begins, so a killed run goes on from there. A round
    counts with the updates of ``manifest.min_survivors`` sites; a site that comes later joins then. Where
    cohorts are drawn, only sites of the round and of the next two are asked for anything. The run ends
    early, and its log says so, once ``training.patience`` rounds have brought no lower held-out loss; and
    if too few sites are left that have not taken all the steps that they planned for: interrupted rounds
    count. A site whose receipt does not go on from its last one takes no further part. Metrics are asked
    for after the last round, and again where they were lost: then a site that has answered once refuses,
    and the run ends without. Raises SiteError, ProtocolError or RunError, and BudgetError if that is why
    too few sites join.
    """
    _Run(post, folder, layout, evaluator, listener).go()


class _Run:
    """A run as it goes on: who takes part, and the newest state of the strategy."""

    def __init__(
        self, post: Post, folder: RunFolder, layout: AdapterLayout, evaluator: Evaluator, listener: Listener
    ) -> None:
        self.post = post
        self.folder = folder
        self.layout = layout
        self.evaluator = evaluator
        self.listener = listener
        self.manifest = manifest = folder.manifest
        self.bytes_up = self.bytes_down = 0
        signature = folder.identity.sign(MANIFEST_PURPOSE, manifest.content)
        self.join = Request(join=Join(manifest=manifest.content, signature=signature))
        if compares_with_start(manifest.job):
            self.join.join.start = to_bytes(folder.load_adapter(0, layout))
        self.limits = ReplyLimits(manifest=manifest, update_size=layout.update_size)
        self.sums = make_sums(self.manifest, layout=layout, take_number=folder.take_counter, ask=self._ask)
        self.members: set[str] = set()
        self._everyone = frozenset(manifest.sites)  # where they are drawn
        self.gone: set[str] = set()  # refused: not asked again before the run is resumed
        self.records = folder.records()
        self.done = len(self.records)
        self.receipts = Receipts(folder, manifest, self.records)
        self.epsilon = last_epsilon(self.records)
        self.state = folder.load_state(self.done, layout)

    def go(self) -> None:
        self._train()
        keep_average(self.folder, self.layout, self.evaluator)
        keep_assessment(self.folder, self.layout, self.evaluator)
        self._show_answers()

    def _train(self) -> None:
        job = self.manifest.job
        sites = self.post.sites()
        if not sites:
            raise RunError("no site is connected")
        joined = self._ask(dict.fromkeys(self._missing(self.done + 1), self.join), self.done + 1)
        joined.require(self.manifest.min_survivors, "joined", what="joining")
        self._welcome(joined)
        log.info("joined by %s; %d rounds done", ", ".join(sorted(self.members)), self.done)
        end_lap("start")
        for number in range(self.done + 1, job.training.rounds + 1):
            if has_stopped(job, self.records):
                log.info("the run stops after round %d: the loss fell no more", number - 1)
                return
            try:
                with about(round_number=number):
                    self._round(number)
                end_lap(f"round {number}")
            except BudgetError as error:
                log.warning("the run ends after round %d: %s", number - 1, error)
                return
        if job.metrics.epsilon > 0 and self.folder.metrics is None:
            self._ask_metrics()

    def _ask(
        self,
        requests: Mapping[str, Request],
        number: int,
        *,
        enough: int | None = None,
        side_requests: Mapping[str, Request] | None = None,
    ) -> Exchange:
        answers = self.post.ask(
            self.receipts.remind(requests),
            round_number=number,
            min_survivors=self.manifest.min_survivors,
            seconds=self.manifest.job.federation.deadline,
            enough=enough,
            side_requests=None if side_requests is None else self.receipts.remind(side_requests),
            take=lambda name, reply: self._take(name, reply, number),
            longest=self.limits.longest,
        )
        for name, why in answers.silent.items():
            if enough is None:
                log.warning("round %d: no answer from %s: %s", number, name, why)
        self.bytes_up += answers.bytes_up
        self.bytes_down += answers.bytes_down
        self._leave(answers.refused)
        # A newcomer's refusal is not why a round, which it was not asked for, has too few answers.
        refused = {
            name: error for name, error in answers.refused.items() if name not in (side_requests or {})
        }
        return replace(answers, refused=refused)

    def _leave(self, errors: Mapping[str, ConfideError]) -> None:
        for name, error in sorted(errors.items()):
            if isinstance(error, LostError):
                log.warning("%s is asked to join again: %s", name, error)
                continue
            log.warning("%s takes no further part: %s", name, error)
            self.gone.add(name)
        self.members -= errors.keys()

    def _take(self, name: str, reply: Reply, number: int) -> Reply:
        """What is kept of an answer, as it comes: its update is in the round's sum from now on.

        Raises ProtocolError for an answer that cannot be one to this run's request.
        """
        if reply.HasField("joined"):
            check_joined(name, reply.joined, self.folder)
            self.manifest.weight(name)
            return reply
        if reply.HasField("trained"):
            if reply.trained.round != number:
                raise ProtocolError(f"{name} answered round {reply.trained.round}, not round {number}")
            self.receipts.take(name, reply.trained.receipt, number, "training")
        elif reply.HasField("evaluated"):
            if self.manifest.job.training.personal_steps:
                self.receipts.take(name, reply.evaluated.own_steps, number + 1, "training")
                self.epsilon[name] = self.receipts.epsilon(name)
            self.receipts.take(name, reply.evaluated.receipt, number, "metrics")
        with timed(Part.SUMS):
            return self.sums.take(name, reply)

    @timed(Part.SUMS)
    def _welcome(self, answers: Exchange) -> None:
        """Take the sites that joined in, as many as the manifest is for."""
        joined = answers.of("joined")
        known = self.folder.public_keys.keys()
        room = max(self.manifest.site_count - len(known), 0)
        for name in sorted(joined.keys() - known)[room:]:
            log.warning("%s comes too late: the run is for %d sites", name, self.manifest.site_count)
            self.gone.add(name)
        taken = {}
        for name in sorted(joined.keys() - self.gone):
            try:
                self.sums.join(name, joined[name].joined)
            except ProtocolError as error:
                self._leave({name: error})
            else:
                taken[name] = joined[name].joined.public_key
        self.folder.keep_public_keys(taken)
        self.members |= taken.keys()

    def _round(self, number: int) -> None:
        """One round, on disk when it returns. Sites that have not joined are asked to meanwhile."""
        folder, manifest = self.folder, self.manifest
        began = time.perf_counter()
        self.bytes_up = self.bytes_down = 0
        if len(self._cohort(number)) < manifest.min_survivors and (missing := self._missing(number)):
            # Sites that lost their secrets of the run are needed now, not in a later round.
            self._welcome(self._ask(dict.fromkeys(missing, self.join), number))
        with timed(Part.SUMS):
            self.sums.prepare(self._cohort(number), number)
        train = Train(manifest_digest=manifest.digest, round=number, adapter=to_bytes(self.state.adapter))
        beside = manifest.job.strategy.beside(self.state)
        if beside is not None:
            train.beside = to_bytes(beside)
        last = number == manifest.job.training.rounds and not manifest.job.metrics.epsilon > 0
        answers = self._ask(
            self._requests(train, following=() if last else self._cohort(number + 1)),
            number,
            side_requests=dict.fromkeys(self._missing(number + 1), self.join) | self.sums.side_requests(),
        )
        trained = answers.require(manifest.min_survivors, "trained", what=f"round {number}")
        training_seconds = time.perf_counter() - began
        self._welcome(answers)
        with timed(Part.SUMS):
            aggregate = self.sums.aggregate(
                {name: reply.trained for name, reply in trained.items()}, answers.of("dealing"), number
            )
            aggregate = self._weighted(aggregate, trained)
        rounds = manifest.job.trained_rounds
        layout = rounds.in_round(self.layout, number)
        self.state = merge_round(rounds, self.state, aggregate, layout, number)
        score = self.evaluator.score(self.state.adapter)
        if not math.isfinite(score.loss):
            raise RunError(f"round {number}: the held-out loss is NaN; lower training.learning_rate")
        receipts = {name: signed(reply.trained.receipt) for name, reply in trained.items()}
        folder.save_receipts(number, receipts)
        self.epsilon |= {name: self.receipts.epsilon(name) for name in trained}
        told_of = {name for name in folder.public_keys if manifest.draws(name, number)}
        record = RoundRecord(
            round=number,
            loss=score.loss,
            measures=dict(score.measures),
            by_label=dict(score.by_label),
            epsilon={name: self.epsilon[name] for name in sorted(told_of & self.epsilon.keys())},
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            seconds=time.perf_counter() - began,
            training_seconds=training_seconds,
            absent=sorted(told_of - trained.keys()),
        )
        folder.finish_round(record, self.layout, self.state)
        self.records.append(record)
        self._let_go(number)
        told = ", ".join(
            f"{name} {value:.4f}" for name, value in ({"loss": score.loss} | record.measures).items()
        )
        log.info("round %d: %s", number, told)
        self.listener(record)

    @timed(Part.SUMS)
    def _requests(self, train: Train, *, following: Collection[str]) -> Mapping[str, Request]:
        return self.sums.train(train, following=following)

    def _weighted(self, mean: NDArray[np.float32], sites: Collection[str]) -> NDArray[np.float32]:
        """A mean of updates that each site has weighted, over the weights in place of the sites' number."""
        if self.manifest.job.federation.weights is None:
            return mean
        return mean * np.float32(len(sites) / math.fsum(self.manifest.weight(site) for site in sites))

    def _cohort(self, number: int) -> set[str]:
        """The members that are in a round."""
        return {name for name in self.members if self.manifest.draws(name, number)}

    def _missing(self, number: int) -> list[str]:
        """Whom to ask to join: not here, or not any more, and in this round or the one after it.

        A round early: it is too late to deal for a sum when it is asked for. A node that has not told its
        name yet is asked for it.
        """
        wanted = set(self.post.sites()) - self.members - self.gone
        return sorted(wanted - (self._everyone - self._soon(number)))

    def _soon(self, number: int) -> frozenset[str]:
        """The sites of this round and the one after it, where they are drawn."""
        return (self.manifest.drawn(number) or frozenset()) | (
            self.manifest.drawn(number + 1) or frozenset()
        )

    def _let_go(self, number: int) -> None:
        """Forget sites that are in neither of the next two rounds: they join again when they are.

        Ten thousand that wait for their turn would each hold what a sum takes. Where an update's rest waits
        at its site, it stays a member: to join again begins without.
        """
        if self._everyone and self.manifest.job.compression.kind == "none":
            self.members &= self._soon(number + 1)

    def _show_answers(self) -> None:
        """What the model says to held-out prompts before its training and after, for the report."""
        job, folder = self.manifest.job, self.folder
        task = find_task(job.task)
        if not self.records or not isinstance(task, AnsweringTask) or (folder.path / ANSWERS).exists():
            return
        adapters = folder.load_adapter(0, self.layout), self.state.adapter
        count = task.shown(section_of(job))
        before, after = (
            self.evaluator.answers(adapter, count=count, seed=job.seeds.data) for adapter in adapters
        )
        if before and after:
            save_answers(folder, before, after)

    def _ask_metrics(self) -> None:
        """Ask the sites how the last adapter does on their own examples, and write down what they say."""
        manifest, folder = self.manifest, self.folder
        job = manifest.job
        evaluate = Evaluate(manifest_digest=manifest.digest, adapter=to_bytes(self.state.adapter))
        # Metrics are of what was trained on: a site that joined too late to train has none.
        trained = sorted(self._cohort(job.training.rounds) & self.epsilon.keys())
        try:
            self.sums.prepare(trained, job.training.rounds)
            answers = self._ask(self.sums.evaluate(evaluate), job.training.rounds)
            told = answers.require(manifest.min_survivors, "evaluated", what="metrics")
        except BudgetError as error:
            log.warning("the run ends without metrics: %s", error)
            return
        metrics = self.sums.metrics(
            {name: reply.evaluated for name, reply in told.items()}, job.training.rounds
        )
        receipts = {name: signed(reply.evaluated.receipt) for name, reply in told.items()}
        own_steps = None
        if job.training.personal_steps:
            own_steps = {name: signed(reply.evaluated.own_steps) for name, reply in told.items()}
            metrics = replace(metrics, spent={name: self.epsilon[name] for name in sorted(told)})
        folder.save_metrics(metrics, receipts, own_steps=own_steps)
        log.info("metrics: accuracy %.4f on the sites' own examples", metrics.mean)
