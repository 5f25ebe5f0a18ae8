"""A run of statistics from the coordinator's side: the sites join, count once, and uncover their sum."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from privacy.errors import JobError, ProtocolError, RunError
from protocol.job.job import Job
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from protocol.job.statistics_section import STATISTICS_ROUND
from protocol.messages.confide_pb2 import Count, Join, Reply, Request
from protocol.sums.reply_limits import ReplyLimits
from protocol.sums.sum_kinds import check_sums
from runs.receipts import Receipts, signed
from runs.statistics_folder import StatisticsFolder
from server.joining import check_joined
from server.post.post import Exchange, Post
from server.statistics_journal import Journal
from server.sums.count_sums import make_count_sums
from tasks.registry import find_task, section_of

log = logging.getLogger("confide.statistics")

_NUMBER = 1  # of the run's one sum


def check_asked(job: Job) -> None:
    """Raises JobError for a job that asks for no statistics."""
    if job.statistics is None:
        raise JobError(
            "statistics: missing; say what to count in [statistics], as docs/statistics.md shows"
        )


def statistics_manifest(job: Job, *, run: str, sites: int) -> Manifest:
    """The job made exact: all sites are asked at once, and nothing is said of a model or an adapter.

    Raises JobError for a job without statistics, or whose counts could not be summed as it asks.
    """
    check_asked(job)
    wanted = job.federation.min_sites
    if wanted is not None and wanted > sites:
        raise JobError(f"federation.min_sites={wanted}: expected at most {sites}, the number of sites")
    federation = job.federation.model_copy(update={"cohort": None, "weights": None})
    adapter = job.adapter.model_copy(update={"ranks": None})
    manifest = Manifest(
        run=run,
        job=job.model_copy(update={"federation": federation, "adapter": adapter}),
        cohort=sites,
        labels=section_of(job).classes if find_task(job.task).labelled else (),
        model_digest="",
        layout_digest="",
    )
    check_sums(manifest)
    return manifest


def count_at_sites(post: Post, folder: StatisticsFolder) -> None:
    """Ask the sites for the counts of a folder's manifest, and write down what they say together.

    Nothing is done where that is known. It counts with the counts of ``manifest.min_survivors`` sites; one
    that refuses, or is away, is left out. Whoever was stopped and comes back asks in the same words, and
    who has answered gives the same answer: nobody counts, or is charged, twice. Raises SiteError,
    BudgetError or RunError where too few answer.
    """
    if not folder.finished:
        _Counting(post, folder).go()


class _Counting:
    """The one round of such a run."""

    def __init__(self, post: Post, folder: StatisticsFolder) -> None:
        self._post = post
        self._folder = folder
        self._manifest = manifest = folder.manifest
        self._bins = sum(one.size for one in folder.histograms)
        self._receipts = Receipts(folder, manifest, ())
        self._limits = ReplyLimits(manifest=manifest, update_size=self._bins)
        self._journal = Journal(folder.path, flush=folder.flush)
        self._sums = make_count_sums(manifest, bins=self._bins, take_number=lambda: _NUMBER, ask=self._ask)

    def go(self) -> None:
        self._sums.prepare(self._join(), STATISTICS_ROUND)
        count = Count(manifest_digest=self._manifest.digest, bins=self._bins)
        answers = self._ask(self._sums.count(count), STATISTICS_ROUND)
        counted = answers.require(self._manifest.min_survivors, "counted", what="statistics")
        counts = self._sums.counts(
            {name: reply.counted for name, reply in counted.items()}, STATISTICS_ROUND
        )
        receipts = {name: signed(reply.counted.receipt) for name, reply in sorted(counted.items())}
        self._folder.finish(counts, receipts)
        self._journal.forget()
        log.info("counted by %s", ", ".join(receipts))

    def _join(self) -> list[str]:
        """The sites that take part: no more than the manifest is for."""
        sites, manifest = self._post.sites(), self._manifest
        if not sites:
            raise RunError("no site is connected")
        signature = self._folder.identity.sign(MANIFEST_PURPOSE, manifest.content)
        join = Request(join=Join(manifest=manifest.content, signature=signature))
        answers = self._ask(dict.fromkeys(sites, join), STATISTICS_ROUND)
        joined = answers.require(manifest.min_survivors, "joined", what="joining")
        taken: dict[str, bytes] = {}
        for name in sorted(joined):
            if len(taken) == manifest.cohort:
                log.warning("%s comes too late: the run is for %d sites", name, manifest.cohort)
                continue
            try:
                self._sums.join(name, joined[name].joined)
            except ProtocolError as error:
                log.warning("%s takes no part: %s", name, error)
            else:
                taken[name] = joined[name].joined.public_key
        self._folder.keep_public_keys(taken)
        log.info("joined by %s", ", ".join(taken))
        return list(taken)

    def _ask(
        self,
        requests: Mapping[str, Request],
        number: int,
        *,
        enough: int | None = None,
        side_requests: Mapping[str, Request] | None = None,
    ) -> Exchange:
        """Ask, unless it was answered before the coordinator was stopped."""
        kind = next((str(request.WhichOneof("kind")) for request in requests.values()), "")
        known = self._journal.answers(kind)
        if known is not None:
            # As they were taken then: what a site is asked next names what it signed last.
            return Exchange(replies={name: self._take(name, reply) for name, reply in known.items()})
        if self._journal.answers("deal") is not None:
            # From the first contribution on words must not change. Until then sites may come and go.
            self._journal.keep()
        answers = self._post.ask(
            self._receipts.remind(requests),
            round_number=number,
            min_survivors=self._manifest.min_survivors,
            seconds=self._manifest.job.federation.deadline,
            enough=enough,
            side_requests=side_requests,
            take=self._take,
            longest=self._limits.longest,
        )
        for name, error in sorted(answers.refused.items()):
            log.warning("%s takes no part: %s", name, error)
        for name, why in answers.silent.items() if enough is None else ():
            log.warning("no answer from %s: %s", name, why)
        self._journal.take(kind, answers.replies)
        return answers

    def _take(self, name: str, reply: Reply) -> Reply:
        """What is kept of an answer. Raises ProtocolError for one that cannot be to this run's request."""
        if reply.HasField("joined"):
            check_joined(name, reply.joined, self._folder)
        elif reply.HasField("counted"):
            self._receipts.take(name, reply.counted.receipt, STATISTICS_ROUND, "statistics")
        return self._sums.take(name, reply)
