"""A simulated federation: one data set dealt out to sites that share one resident model."""

from __future__ import annotations

import copy
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data import example_digest, label_names, read_table
from client.home import Home
from client.policy import BudgetSection, Policy, RulesSection
from client.site import Entropy, Site
from client.training import Trainer
from privacy.noise import keyed_source
from protocol.adapted_model import AdaptedModel
from protocol.base_model import load_base_model
from protocol.device import choose_device
from protocol.examples import Examples
from protocol.frozen_prefix import Activations, FrozenPrefix
from protocol.job import ByColumn, Job
from protocol.manifest import VERSION, Manifest
from protocol.task import tokenize
from server.evaluation import Evaluator
from simulation.partition import partition

_PACKAGES = ("torch", "transformers", "peft", "opacus", "flwr", "dp-accounting")


class World:
    """Everything that a job makes on one machine: data, model, sites and held-out examples.

    Two processes that build it from one job build the same. Raises the UserErrors of what it reads.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.device = choose_device(job.device)
        kind = job.federation.partition
        table = read_table(job, group=kind.column if isinstance(kind, ByColumn) else None)
        self.labels = label_names(job, table)
        parts = partition(job, table)
        base = load_base_model(job, labels=self.labels, device=self.device)
        self.adapted = AdaptedModel(base, job=job, device=self.device)
        self.initial_adapter = self.adapted.initial_adapter()
        self.prefix = FrozenPrefix(self.adapted)
        self._activations: dict[str | None, Activations] = {}
        self.trainer = Trainer(self.adapted)
        self._table = table
        self._rows = parts.sites
        self.held_out = self._tokenize(parts.held_out)

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def site(self, name: str, *, home: Path, coordinator: bytes | None = None) -> Site:
        """One simulated site with its own ``home``, and a policy that allows just this job if it has none.

        ``coordinator`` is the public key that such a policy pins.
        """
        examples = self.examples(name)
        place = Home(home)
        if not place.has_policy:
            place.write_policy(simulated_policy(self.job, coordinator))
        return Site(
            name=name,
            examples=examples,
            digests=[example_digest(self._table.texts[row]) for row in self._rows[name]],
            labels=self.labels,
            trainer=self.trainer,
            activations=self._kept(name, examples),
            home=place,
            keyed_entropy=_keyed_entropy(self.job, name),
        )

    def examples(self, name: str) -> Examples:
        """One simulated site's examples, tokenized."""
        return self._tokenize(self._rows[name])

    def evaluator(self) -> Evaluator:
        """The coordinator's evaluator on the held-out examples."""
        return Evaluator(self.adapted, self.held_out, self._kept(None, self.held_out))

    def variant(self, job: Job, *, sites: tuple[str, ...] | None = None) -> World:
        """The same data and resident model under another job, or with fewer of its sites.

        Only ``training``, ``privacy``, ``metrics`` and ``seeds.noise`` may differ: the rest is built.
        """
        other = copy.copy(self)
        other.job = job
        other._rows = {name: self._rows[name] for name in sites or self.site_names}
        return other

    def manifest(self, run: str) -> Manifest:
        """The job made exact, for a run of this name."""
        return Manifest(
            run=run,
            job=self.job,
            cohort=len(self._rows),
            labels=self.labels,
            base_digest=self.adapted.base_digest,
            layout_digest=self.adapted.layout.digest,
        )

    def facts(self) -> Mapping[str, Any]:
        """What a reader of the report wants to know beyond the job."""
        from importlib.metadata import version

        return {
            "versions": {"confide": VERSION, "python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
            "device": str(self.device),
            "base_digest": self.adapted.base_digest,
            "trained_parameters": self.adapted.layout.update_size,
            "adapter_parameters": self.adapted.layout.adapter_size,
            "frozen_layers_below": self.prefix.depth,
            "labels": list(self.labels),
            "held_out_examples": len(self.held_out),
            "examples_by_site": {name: len(rows) for name, rows in self._rows.items()},
        }

    def adapter_config(self) -> dict[str, Any]:
        """PEFT's own description of the adapter."""
        config = self.adapted.peft.peft_config["default"].to_dict()
        config["inference_mode"] = True
        return {key: sorted(v) if isinstance(v, set) else v for key, v in config.items()}

    def _kept(self, name: str | None, examples: Examples) -> Activations:
        """The activations of a site, or of the coordinator (None).

        They outlive a run: a variant of it starts with what the first one computed.
        """
        if name not in self._activations:
            self._activations[name] = Activations(self.prefix, examples)
        return self._activations[name]

    def _tokenize(self, rows: NDArray[np.int64]) -> Examples:
        table, labels = self._table, None
        if table.labels is not None:
            number = {label: index for index, label in enumerate(self.labels)}
            labels = [number[table.labels[row]] for row in rows]
        texts = [table.texts[row] for row in rows]
        return tokenize(self.adapted.tokenizer, texts=texts, labels=labels, job=self.job)


def simulated_policy(job: Job, coordinator: bytes | None) -> Policy:
    """What a simulated site allows: this job once, and nothing more.

    Half of a budget's δ is for the runs' own, so it is twice the job's.
    """
    budget = BudgetSection(epsilon=job.privacy.epsilon + job.metrics.epsilon, delta=2 * job.privacy.delta)
    rules = RulesSection(
        mechanisms=[job.privacy.mechanism],
        coordinator=coordinator.hex() if coordinator else None,
        metrics_epsilon=job.metrics.epsilon,
    )
    return Policy(budget=budget, rules=rules)


def _keyed_entropy(job: Job, name: str) -> Entropy | None:
    seed = job.seeds.noise
    if seed is None:
        return None
    return lambda round_number, step: keyed_source(seed, name, round_number, step)
