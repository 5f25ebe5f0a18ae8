"""The coordinator's workplace: a job's model and held-out examples, and the run folders made from them."""

from __future__ import annotations

import copy
import platform
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import JobError
from protocol.job.draw import cohort_size
from protocol.job.job import Job
from protocol.job.manifest import VERSION, Manifest
from protocol.job.model_places import with_files
from protocol.job.strategy import State
from protocol.job.tensor_rates import check_rates
from protocol.messages.vector import to_bytes, vector_digest
from protocol.plain_text import quoted_some
from protocol.sums.sum_kinds import check_encoding, check_sums
from runs.peft_form import peft_config
from runs.run_folder import RunFolder
from server.evaluation import Evaluator, Score, Unscored
from server.public_features import with_public_features
from server.warm_start import read_warm_start
from tasks.data.examples import Examples
from tasks.data.oddities import find_oddities
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import choose_device
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.own_rows import encode_own_rows, label_names, read_own_rows, read_validation_rows
from tasks.registry import checked_job, compares_with_start, has_own_program, section_of

_PACKAGES = ("torch", "transformers", "peft", "opacus", "flwr", "dp-accounting")


def check_federation(job: Job, sites: Collection[str]) -> None:
    """Raises JobError for weights, or for numbers of sites, that are not those of the run's sites."""
    cohort = cohort_size(job.federation.cohort, sites=len(sites))
    asked = job.federation.cohort
    if isinstance(asked, int) and asked > len(sites):
        raise JobError(
            f"federation.cohort={asked}: expected at most {len(sites)}, the number of the run's sites; "
            "without the key all are in each round"
        )
    wanted, least = job.federation.min_sites, job.strategy.least
    if wanted is not None and wanted > cohort:
        raise JobError(
            f"federation.min_sites={wanted}: expected at most {cohort}, the number of sites in a round"
        )
    if least > cohort:
        raise JobError(
            f'strategy.name: "{job.strategy.name}" with these keys takes the updates of {least} sites in a '
            f"round, got {cohort}: set strategy.malicious lower, or have more sites"
        )
    weights = job.federation.weights
    odd = sorted(weights.keys() ^ set(sites)) if weights is not None else []
    if odd:
        raise JobError(
            "federation.weights: expected a weight for each of the run's sites and for no other, got "
            f"otherwise for {quoted_some(odd)}"
        )


class Workplace:
    """A job's model, resident, and the examples that the coordinator evaluates on.

    ``oddities`` is what is to be said of the data, a sentence each.
    """

    def __init__(
        self,
        job: Job,
        *,
        adapted: AdaptedModel,
        labels: tuple[str, ...],
        held_out: Examples,
        oddities: tuple[str, ...],
    ) -> None:
        self.job = job
        self.oddities = oddities
        self.adapted = adapted
        self.labels = labels
        self.held_out = held_out
        self.initial_adapter = _first_adapter(job, adapted)
        if compares_with_start(job):
            adapted.begin_with(self._start().adapter)
        self.prefix = FrozenPrefix(adapted)
        self.evaluator = Evaluator(
            adapted,
            held_out,
            Activations(self.prefix, held_out),
            labels=labels or section_of(job).classes,  # of pixels, too, where examples have none
        )

    @classmethod
    def load(cls, job: Job, *, files: Mapping[str, str] | None = None) -> Workplace:
        """The workplace of a real run: what ``data.validation`` or else ``data.source`` holds is held out.

        No site has it.
        ``data.limit`` takes that many of them, drawn by ``seeds.data``. ``files`` are the places of models'
        files that are not where the job says, by their keys in ``[data]``. Raises the UserErrors of what it
        reads.
        """
        job = checked_job(job)
        device = choose_device(job.device)
        table = read_validation_rows(job) or read_own_rows(job)
        labels = label_names(table, declared=section_of(job).classes)
        base = load_base_model(with_files(job, files), labels=labels, device=device)
        adapted = AdaptedModel(base, job=job, device=device)
        rows = np.arange(len(table))
        if job.data.limit is not None and job.data.limit < len(table):
            rows = np.random.default_rng(job.seeds.data).choice(rows, job.data.limit, replace=False)
        held_out = encode_own_rows(adapted, table, rows, labels=labels)
        oddities = find_oddities(table, labels=labels)
        return cls(job, adapted=adapted, labels=labels, held_out=held_out, oddities=oddities)

    def variant(self, job: Job) -> Workplace:
        """The same model and examples under another job, which must want the same of both."""
        other = copy.copy(self)
        other.job = job
        return other

    def unscored(self) -> Workplace:
        """The same, for runs whose adapters nobody scores."""
        other = copy.copy(self)
        other.evaluator = Unscored()
        return other

    def manifest(self, run: str, *, cohort: int, sites: tuple[str, ...] = ()) -> Manifest:
        """The job made exact, for a run of this name: see ``Manifest`` for ``cohort`` and ``sites``."""
        return Manifest(
            run=run,
            # What is asked before a job is a run of its own, and none of a training's.
            job=self.job.model_copy(update={"statistics": None}),
            cohort=cohort,
            sites=sites,
            labels=self.labels,
            model_digest=self.adapted.model_digest,
            layout_digest=self.adapted.layout.digest,
            start_digest=""
            if not self.job.begins_elsewhere
            else vector_digest(to_bytes(self._start().adapter)),
        )

    def _start(self) -> State:
        return self.job.strategy.start(self.adapted.layout, self.initial_adapter)

    def create_folder(
        self,
        path: Path,
        *,
        manifest: Manifest,
        examples_by_site: Mapping[str, int] | None = None,
        coordinator_key: Path | None = None,
        federation: str | None = None,
        flush: bool = True,
    ) -> RunFolder:
        """The folder of a new run, whole from the start.

        ``coordinator_key`` is where the coordinator keeps its key; without it the run gets one of its own.
        ``federation`` is the name of a real one; without it the run is simulated. ``flush`` is as in
        ``RunFolder``. Raises JobError for a job whose updates could not be summed as it asks.
        """
        check_rates(self.job.training, [slot.name for slot in self.adapted.layout.slots if slot.trained])
        check_sums(manifest)
        check_encoding(manifest, update_size=self.adapted.layout.update_size)
        before = self._score_before
        facts = self.facts() | {
            "examples_by_site": dict(examples_by_site or {}),
            "federation": federation,
            "majority": self.evaluator.majority,
            "loss_before": before.loss,
            "measures_before": dict(before.measures),
        }
        return RunFolder.create(
            path,
            manifest=manifest,
            facts=facts,
            layout=self.adapted.layout,
            state=self._start(),
            adapter_config=self.adapter_config(),
            coordinator_key=coordinator_key,
            files=self.adapted.base.files,
            flush=flush,
        )

    @cached_property
    def _score_before(self) -> Score:
        """What the first adapter scores: once for all variants of a run that come after it."""
        return self.evaluator.score(self.initial_adapter)

    def facts(self) -> dict[str, Any]:
        """What a reader of the report wants to know beyond the job."""
        from importlib.metadata import version

        layout = self.adapted.layout
        return {
            "versions": {"confide": VERSION, "python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
            "device": str(self.adapted.device),
            "model_digest": self.adapted.model_digest,
            "trained_parameters": self.job.strategy.most_trained(layout),
            "adapter_parameters": layout.adapter_size,
            "pairs": any(".lora_" in slot.name for slot in layout.slots),
            "frozen_layers_below": self.prefix.depth,
            "labels": list(self.labels),
            "remarks": [*self.adapted.base.remarks, *self._feature_remarks(), *self._local_remarks()],
            "exported_beside": list(self.adapted.exported_beside),
            "own_program": has_own_program(self.job),
            "held_out_examples": len(self.held_out),
            "oddities": list(self.oddities),
        }

    def _feature_remarks(self) -> list[str]:
        place = self.job.model.features
        if place is None:
            return []
        return [
            f'The head\'s features are centred and scaled by what is in model.features="{place}", which '
            "the job says is public: its mean features are in the adapter, without noise"
        ]

    def _local_remarks(self) -> list[str]:
        layout = self.adapted.layout
        if not layout.local_size:
            return []
        return [
            f"{layout.local_size} of the {layout.update_size + layout.local_size} numbers that are trained "
            "stay at their sites: what is scored and exported here has them as they were at the start; "
            "metrics.epsilon tells how the sites' own adapters do"
        ]

    def adapter_config(self) -> dict[str, Any]:
        """PEFT's own description of the adapter."""
        return peft_config(self.adapted.peft.peft_config["default"].to_dict(), self.job.adapter)


def _first_adapter(job: Job, adapted: AdaptedModel) -> NDArray[np.float32]:
    """What the first round begins with, float32[adapter_size]: drawn, or made elsewhere."""
    place, seed = job.training.warm_start, job.seeds.adapter
    if place is None:
        adapter = adapted.initial_adapter(seed)
        features = job.model.features
        return adapter if features is None else with_public_features(adapter, adapted, place=features)
    return read_warm_start(place, adapted, seed=seed)
