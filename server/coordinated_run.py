"""One run of a federation, from the coordinator's side: whoever watches reads the run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

from cryptography.hazmat.primitives import serialization

from privacy.errors import ConfideError, JobError
from runs.report.report import write_report
from runs.run_folder import RoundRecord, RunFolder
from runs.run_log import logged
from runs.run_state import RunState, coordinating, read_state, write_state
from runs.statistics_folder import StatisticsFolder
from server.job_context import Workplace
from server.post.prompt_grid import MessageGrid
from server.post.sealed_post import Member, SealedPost
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.rounds import run_rounds
from server.statistics_round import count_at_sites

log = logging.getLogger("confide.run")


def coordinate(
    grid: MessageGrid, folder: RunFolder | StatisticsFolder, coordinator: CoordinatorFolder
) -> None:
    """Do what a folder lacks over the grid that reaches the sites: its rounds and report, or its counts.

    The folder's state tells how it ended. Raises what ended it.
    """
    with coordinating(folder), logged(folder):
        before = read_state(folder) or RunState(state="running")
        running = replace(before, state="running", doing="", reason="", exit_code=0)
        write_state(folder, running)
        try:
            post = SealedPost(
                grid,
                run=folder.manifest.run,
                identity=coordinator.identity(),
                members=Members(coordinator),
                take_counter=folder.take_counter,
                tell=lambda text: write_state(folder, replace(running, doing=text)),
            )
            if isinstance(folder, StatisticsFolder):
                count_at_sites(post, folder)
            else:
                _run(post, folder)
        except ConfideError as error:
            write_state(
                folder, replace(running, state="failed", reason=str(error), exit_code=error.exit_code)
            )
            raise
        except Exception as error:
            why = f"{type(error).__name__}; run.log says more"
            write_state(folder, replace(running, state="failed", reason=why, exit_code=1))
            raise
        write_state(folder, replace(running, state="finished"))


def reopen_workplace(folder: RunFolder) -> Workplace:
    """What a run was started with, loaded again. Raises JobError if it is not what the manifest says."""
    manifest = folder.manifest
    workplace = Workplace.load(manifest.job, files=folder.model_files)
    if workplace.manifest(manifest.run, cohort=manifest.cohort, sites=manifest.sites) != manifest:
        raise JobError(
            f"{folder.path} was started with another model, label set, layout or first adapter: bring "
            "those back, or start a new run"
        )
    return workplace


def _run(post: SealedPost, folder: RunFolder) -> None:
    workplace = reopen_workplace(folder)
    run_rounds(post, folder, layout=workplace.adapted.layout, evaluator=workplace.evaluator, listener=_say)
    if folder.records():
        write_report(folder)


def _say(record: RoundRecord) -> None:
    """For the log of Flower's process: who watches reads the folder."""
    log.debug("round %d is on disk", record.round)


class Members(Mapping[str, Member]):
    """The federation's sites by the keys pinned for them, as they are now: one may be revoked in a run."""

    def __init__(self, coordinator: CoordinatorFolder) -> None:
        self._coordinator = coordinator
        self._read: tuple[int, int] | None = None
        self._members: dict[str, Member] = {}

    def __getitem__(self, name: str) -> Member:
        return self._now()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def _now(self) -> dict[str, Member]:
        """Read anew when federation.json was replaced: it is asked for every site, every few seconds."""
        found = self._coordinator.federation_path.stat()
        stamp = found.st_ino, found.st_mtime_ns
        if stamp != self._read:
            sites = self._coordinator.federation.active_sites
            self._members = {
                name: Member(identity=site.identity_key, node=_der(site.node))
                for name, site in sites.items()
            }
            self._read = stamp
        return self._members


def _der(openssh: str) -> bytes:
    key = serialization.load_ssh_public_key(openssh.encode())
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
