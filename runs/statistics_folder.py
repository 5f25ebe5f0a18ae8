"""The folder of a run of statistics: what sites counted together, and what each signed for it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy.errors import JobError, RunError
from privacy.ledger.receipt import SignedReceipt
from privacy.mechanisms.counting import ONE
from protocol.job.job_file import job_toml
from protocol.job.manifest import Manifest
from protocol.job.statistics_section import StatisticsSection
from runs.asked_folder import AskedFolder
from runs.told_statistics import NoisyHistogram, Statistics
from tasks.asked_statistics import Asked, asked_of
from tasks.registry import section_of

RESULT = "statistics.json"
_COUNTS = "counts.json"


@dataclass(frozen=True, kw_only=True)
class StatisticsRun:
    """A finished run of statistics: its folder, and what it tells.

    ::

        job.toml         the job, every key filled in
        statistics-manifest.json  what the sites agreed to
        coordinator.key  what the coordinator signed that with; in a federation, a link to its key
        counter          the last number that a sealed request of a federation was given
        state.json       how far a run in a federation has come, and who is at it
        sites.json       the sites' public keys
        answered.json    what sites have answered so far, under masks, until the run is finished
        receipts/statistics.json  what each site signed that it cost
        statistics.json  what the sites counted together, with what noise may do
        counts.json      the noisy counts that it was made of, in units of 2^-30; last of all
        sites/<name>/    a simulated site's home, with its ledger
    """

    folder: Path
    statistics: Statistics


class StatisticsFolder(AskedFolder):
    """One run of statistics on disk, finished once its counts are there."""

    MANIFEST = "statistics-manifest.json"
    COMMAND = "stats"

    @classmethod
    def create(
        cls, path: Path, *, manifest: Manifest, coordinator_key: Path | None = None, flush: bool = True
    ) -> StatisticsFolder:
        """Make a folder with everything that a run starts from. It appears whole or not at all.

        ``coordinator_key`` is linked to; without it the run gets a key of its own. Raises RunError for a
        folder that is there already.
        """
        if path.exists():
            raise RunError(f"the run folder {path} exists already: choose another --run-name")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            partial.mkdir()
            folder = cls(partial, flush=flush)
            folder._write("job.toml", job_toml(manifest.job).encode())
            folder._write(cls.MANIFEST, manifest.content)
            if coordinator_key is not None:
                folder.key_path.symlink_to(coordinator_key.resolve())
            folder._sync(partial)
            partial.rename(path)
            folder._sync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(path, flush=flush)

    @property
    def asked(self) -> StatisticsSection:
        """What the run asks for."""
        asked = self.manifest.job.statistics
        if asked is None:
            raise JobError(f"{self.path}: expected a manifest with [statistics], got one without")
        return asked

    @property
    def histograms(self) -> tuple[Asked, ...]:
        """The histograms in order, as all sites find them."""
        return asked_of(self.asked, section_of(self.manifest.job))

    @property
    def finished(self) -> bool:
        """Whether the counts are there, and all that is written before them."""
        return (self.path / _COUNTS).exists()

    def finish(self, counts: NDArray[np.int64], receipts: Mapping[str, SignedReceipt]) -> None:
        """Write what the sites counted, int64[bins] in units of 2^-30, after the receipts for it."""
        self.save_receipts("statistics", receipts)
        self._write(RESULT, self._told(counts).content)
        self._write(_COUNTS, json.dumps(counts.tolist()).encode())

    @property
    def statistics(self) -> Statistics:
        """What the run tells. Raises RunError for one that is not finished, or cannot be read."""
        path = self.path / _COUNTS
        try:
            counts = np.array(json.loads(path.read_text()), np.int64)
        except FileNotFoundError as error:
            raise RunError(f"{self.path}: its sites have not counted yet") from error
        except (OSError, ValueError, OverflowError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        return self._told(counts)

    def run(self) -> StatisticsRun:
        """The finished run. Raises RunError for one that is not."""
        return StatisticsRun(folder=self.path, statistics=self.statistics)

    def _told(self, counts: NDArray[np.int64]) -> Statistics:
        """What noisy counts say. Each site adds the whole noise of its guarantee: variances add up."""
        manifest, keys, histograms = self.manifest, self.public_keys, self.histograms
        receipts = {name: kept.read(keys[name]) for name, kept in self.receipts("statistics").items()}
        std = float(np.sqrt(sum(receipt.plan.noise_std**2 for receipt in receipts.values())))
        starts = np.cumsum([one.size for one in histograms])[:-1]
        return Statistics(
            run=manifest.run,
            epsilon=self.asked.epsilon,
            delta=manifest.job.privacy.delta,
            spent={name: receipt.epsilon for name, receipt in receipts.items()},
            histograms=tuple(
                NoisyHistogram(asked=one, counts=part, std=std)
                for one, part in zip(histograms, np.split(counts / ONE, starts), strict=True)
            ),
        )
