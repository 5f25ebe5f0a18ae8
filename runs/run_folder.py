"""A run's folder: what a run leaves behind, never half written.

::

    job.toml             the job, every key filled in
    manifest.json        what the sites agreed to
    facts.json           versions, device, sizes, what the report says beside the rounds
    adapter_config.json  PEFT's description of the adapter
    models/trees         the file of a public model that the job names in [data], under its key there
    coordinator.key      what the coordinator signed the manifest with; in a federation, a link to its key
    counter              the last number that a sum, or a sealed request of a federation, was given
    state.json           how far a run in a federation has come, and who is at it
    sites.json           the sites' public keys, as they joined
    receipts/001.json …  what each site signed that the round cost it
    receipts/metrics.json  and that the metrics did
    receipts/own-steps.json  and the steps that sites took for themselves after the last round, if any
    rounds.jsonl         one JSON object a finished round
    metrics.json         the last adapter on the sites' own examples, if the job asks for that
    answers.json         what the model says to held-out prompts, before and after, if its task writes
    rounds/000/          the adapter before the first round, in PEFT's own format, with residuals if any
    rounds/001/ …        the adapter after each round
    rounds/001/memory.safetensors …   what the strategy remembers, if it does
    rounds/001/trained.safetensors …  the adapter as it is trained, where PEFT has another form
    adapter              a link to the last one
    assessment.json      how sure the last adapters are on held-out examples, and how far regions are apart
    average/             an average of them, and average.json on what it is, if the job asks for one
    sites/<name>/        a simulated site's home
    compare/             baselines of the run: without-privacy and alone/<name>, and labels.json
    run.log              what happened when
    run.jsonl            the same for machines, one JSON object a line, in a federation
    report.html          the report
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from privacy.durable import append_line, replace_link, sync_file
from privacy.errors import RunError
from privacy.ledger.receipt import SignedReceipt
from protocol.job.data_section import MODEL_FILES
from protocol.job.job_file import job_toml
from protocol.job.layout import AdapterLayout
from protocol.job.manifest import Manifest
from protocol.job.strategy import State
from protocol.processes.time_spent import Part, timed
from runs.asked_folder import AskedFolder
from runs.metrics import Metrics, read_metrics
from runs.peft_form import load_tensors, save_tensors
from tasks.label_scores import LabelScore
from tasks.registry import has_own_program

MEMORY = "memory.safetensors"  # beside an adapter: what its strategy remembers
_MODELS = "models"


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One finished round. ``loss``, the task's ``measures`` and scores ``by_label`` are held-out.

    ``epsilon`` is by site, of those that were drawn for the round, where sites are drawn.

    A site that is ``absent`` joined the run, was drawn, and its update is not in this round: its ε is that
    of the last round that it took part in, if there is one.
    """

    round: int
    loss: float
    measures: dict[str, float]
    epsilon: dict[str, float | None]
    bytes_up: int
    bytes_down: int
    seconds: float
    training_seconds: float
    absent: list[str] = field(default_factory=list)
    by_label: dict[str, LabelScore] = field(default_factory=dict)

    @classmethod
    def read(cls, line: str) -> RoundRecord:
        """A line of ``rounds.jsonl``. Raises ValueError or TypeError for what is none."""
        table = json.loads(line)
        scores = {label: LabelScore(**score) for label, score in table.pop("by_label", {}).items()}
        return cls(**table, by_label=scores)

    @property
    def present(self) -> set[str]:
        """The sites whose updates are in the round."""
        return self.epsilon.keys() - set(self.absent)

    @property
    def highest_epsilon(self) -> float | None:
        """The largest ε among the sites; None if one of them has no bound."""
        spent = [value for value in self.epsilon.values() if value is not None]
        return max(spent) if len(spent) == len(self.epsilon) else None


class RunFolder(AskedFolder):
    """One run of training on disk."""

    MANIFEST = "manifest.json"
    COMMAND = "run"

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        manifest: Manifest,
        facts: Mapping[str, Any],
        layout: AdapterLayout,
        state: State,
        adapter_config: Mapping[str, Any],
        coordinator_key: Path | None = None,
        files: Mapping[str, bytes] | None = None,
        flush: bool = True,
    ) -> RunFolder:
        """Make a folder with everything that a run starts from. It appears whole or not at all.

        ``files`` are those of public models that the job names in ``[data]``, by their keys.
        ``coordinator_key`` is linked to, not copied; without it the run gets a key of its own.
        """
        if path.exists():
            raise RunError(f"the run folder {path} exists already: choose another --run-name")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            partial.mkdir()
            folder = cls(partial, flush=flush)
            folder._write("manifest.json", manifest.content)
            folder._write("job.toml", job_toml(manifest.job).encode())
            folder._write("facts.json", json.dumps(facts, indent=1).encode())
            folder._write("rounds.jsonl", b"")
            folder._write("adapter_config.json", json.dumps(adapter_config).encode())
            for key, content in (files or {}).items():
                (partial / _MODELS).mkdir(exist_ok=True)
                folder._write(f"{_MODELS}/{key}", content)
            if coordinator_key is not None:
                folder.key_path.symlink_to(coordinator_key.resolve())
            folder.save_state(0, layout, state)
            folder._sync(partial)
            partial.rename(path)
            folder._sync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(path, flush=flush)

    @property
    def metrics(self) -> Metrics | None:
        """What the sites told of their own examples, if they did. Raises RunError if it cannot be read."""
        path = self.path / "metrics.json"
        return read_metrics(path.read_bytes()) if path.exists() else None

    @timed(Part.DISK)
    def save_metrics(
        self,
        metrics: Metrics,
        receipts: Mapping[str, SignedReceipt],
        *,
        own_steps: Mapping[str, SignedReceipt] | None = None,
    ) -> None:
        """Write metrics after their receipts: where there are metrics, there are receipts for them.

        ``own_steps`` are those for the steps that sites took for themselves; None if there were none.
        """
        self.save_receipts("metrics", receipts)
        if own_steps is not None:
            self.save_receipts("own-steps", own_steps)
        self._write("metrics.json", metrics.content)

    @property
    def has_own_program(self) -> bool:
        """Whether the whole model is exported with a program that loads it, wherever its base is now."""
        # Older folders have no such fact.
        known: bool | None = self.facts.get("own_program")
        return has_own_program(self.manifest.job) if known is None else known

    @property
    def facts(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "facts.json").read_text()))

    @property
    def model_files(self) -> dict[str, str]:
        """Where the folder keeps files of public models that the job names in ``[data]``, by their keys."""
        places = {key: self.path / _MODELS / key for key in MODEL_FILES}
        return {key: str(place.resolve()) for key, place in places.items() if place.exists()}

    @property
    def adapter_path(self) -> Path:
        """The newest adapter, as a PEFT folder."""
        return self.path / "adapter"

    def records(self) -> list[RoundRecord]:
        """The finished rounds. A last line that a kill cut off does not count.

        Raises RunError if another one cannot be read.
        """
        path = self.path / "rounds.jsonl"
        try:
            whole = path.read_text().rpartition("\n")[0]
            records = [RoundRecord.read(line) for line in whole.splitlines()]
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        if not all(isinstance(record.epsilon, dict) for record in records):
            raise RunError(f"{path} cannot be read: expected each epsilon by site")
        absent = [record.absent for record in records]
        if not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in absent):
            raise RunError(f"{path} cannot be read: expected the names of those absent")
        return records

    @timed(Part.DISK)
    def finish_round(self, record: RoundRecord, layout: AdapterLayout, state: State) -> None:
        """Write a round's state, then its line: a line in rounds.jsonl has its adapter on disk."""
        self.save_state(record.round, layout, state)
        append_line(self.path / "rounds.jsonl", json.dumps(asdict(record)).encode(), flush=self.flush)

    def save_state(self, number: int, layout: AdapterLayout, state: State) -> None:
        """Write the state after a round, its adapter in PEFT's format, and make ``adapter`` point to it."""
        rounds = self.path / "rounds"
        rounds.mkdir(exist_ok=True)
        final = rounds / f"{number:03d}"
        partial = rounds / f".{number:03d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            shutil.copy(self.path / "adapter_config.json", partial / "adapter_config.json")
            begun = None
            if self.manifest.job.adapter.changes_base:
                begun = layout.split(self.load_adapter(0, layout) if number else state.adapter)
            save_tensors(partial, layout.split(state.adapter), begun=begun)
            if state.memory:
                save_file(dict(state.memory), partial / MEMORY)
            for file in partial.iterdir() if self.flush else ():
                sync_file(file)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._sync(rounds)
        replace_link(self.path / "adapter", Path("rounds") / f"{number:03d}")

    def newest_adapter(self, layout: AdapterLayout) -> NDArray[np.float32]:
        """The newest adapter: float32[adapter_size]."""
        return self.load_adapter(int(self.adapter_path.resolve().name), layout)

    def load_state(self, number: int, layout: AdapterLayout) -> State:
        """The state after a round, as it was saved."""
        path = self.path / "rounds" / f"{number:03d}" / MEMORY
        memory = load_file(path) if path.exists() else {}
        return State(adapter=self.load_adapter(number, layout), memory=memory)

    def load_adapter(self, number: int, layout: AdapterLayout) -> NDArray[np.float32]:
        """The adapter after a round: float32[adapter_size]."""
        try:
            return layout.join(load_tensors(self.path / "rounds" / f"{number:03d}"))
        except FileNotFoundError as error:
            raise RunError(f"{self.path} lost the adapter of round {number}") from error
