"""The examples whose membership is attacked: sites' own, or made up in their places, each in or out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import UserError
from simulation.simulated_federation import World
from tasks.data.examples import Batch, Examples, positions
from tasks.data.folded_examples import FoldedExamples
from tasks.data.token_examples import TokenExamples
from tasks.group_task import GroupTask
from tasks.model.frozen_prefix import Activations

Kind = Literal["own", "labels", "text"]

# Without a number: of examples that are made up, so many are looked for, and all of a site's own.
_MADE_UP = 1000
_FEWEST = 40


class ChosenExamples(Examples):
    """Another's examples, some of them blank: where ``blank``, bool[n], is set.

    A blank one counts and may be drawn, and contributes nothing: it is what a guarantee compares an example
    with. ``labels``, int64[n], take the place of the others'.
    """

    def __init__(
        self, whole: Examples, *, blank: NDArray[np.bool_], labels: NDArray[np.int64] | None
    ) -> None:
        self._whole, self._blank, self.labels = whole, blank, labels
        self._sizes = np.where(blank, 0, whole.sizes)

    @property
    def rows_an_example(self) -> int:
        return self._whole.rows_an_example

    @property
    def sizes(self) -> NDArray[np.int64]:
        return self._sizes

    def take(self, indices: NDArray[np.int64]) -> ChosenExamples:
        return ChosenExamples(
            self._whole.take(indices),
            blank=self._blank[indices],
            labels=None if self.labels is None else self.labels[indices],
        )

    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        found = self._whole.batch(indices, size=size, rows=rows)
        if self.labels is None:
            return found
        labels = found.inputs["labels"].clone()
        labels[: len(indices)] = torch.from_numpy(self.labels[indices])
        return replace(found, inputs={**found.inputs, "labels": labels})


@dataclass(frozen=True, kw_only=True)
class SiteTargets:
    """One site's examples, those at ``rows`` attacked: ``whole`` has them all, in their changed form."""

    whole: Examples
    rows: NDArray[np.int64]
    activations: Activations

    def with_present(self, present: NDArray[np.bool_]) -> Examples:
        """What the site trains on if ``present``, bool[len(rows)], are in: the others of them are blank."""
        blank = np.zeros(len(self.whole), bool)
        blank[self.rows[~present]] = True
        return ChosenExamples(self.whole, blank=blank, labels=self.whole.labels)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """All attacked examples, in the order of the sites; each site's are as many as ``sizes`` says."""

    kind: Kind
    sites: dict[str, SiteTargets]

    def __len__(self) -> int:
        return sum(len(site.rows) for site in self.sites.values())

    def world(self, world: World, present: NDArray[np.bool_]) -> World:
        """The world in which those that are ``present``, bool[m], are in."""
        given, start = dict[str, tuple[Examples, Activations]](), 0
        for name, site in self.sites.items():
            own = present[start : start + len(site.rows)]
            given[name] = site.with_present(own), site.activations
            start += len(own)
        return world.with_examples(given)


def choose_targets(
    world: World, *, kind: Kind, count: int | None, generator: np.random.Generator
) -> Targets:
    """Which examples are attacked: ``count`` of all sites', or all; made up, a thousand at most.

    ``labels`` gives each another label than its own, and ``text`` random tokens in place of its own, which
    no model expects: outliers, that are learned by heart if anything is. Where examples are groups of rows,
    groups are chosen, and each row of one is changed. Raises UserError for a kind that the task has not, or
    too few examples.
    """
    examples = {name: world.examples(name) for name in world.site_names}
    rows_of = [one.rows if isinstance(one, FoldedExamples) else one for one in examples.values()]
    if kind == "labels" and any(one.labels is None for one in rows_of):
        raise UserError(
            f'kind="labels": expected a task with one label an example, got task="{world.job.task}"'
        )
    tokens = all(isinstance(one, TokenExamples) for one in rows_of)
    if kind == "text" and (world.adapted.base.head or not tokens):
        raise UserError(
            f'kind="text": expected a task that learns text alone, as causal-lm, got "{world.job.task}"'
        )
    room = {name: np.flatnonzero(one.sizes > 0) for name, one in examples.items()}
    total = sum(map(len, room.values()))
    wanted = min(total, count or (total if kind == "own" else _MADE_UP))
    if wanted < _FEWEST:
        raise UserError(
            f"expected {_FEWEST} examples to attack at least, got {wanted}, of {total} at all sites: ask "
            "for more, or give the sites more data"
        )
    chosen = np.zeros(total, bool)
    chosen[generator.choice(total, wanted, replace=False)] = True
    sites, start = {}, 0
    for name, places in room.items():
        rows = places[chosen[start : start + len(places)]]
        start += len(places)
        whole = _changed(world, examples[name], rows, kind=kind, generator=generator)
        sites[name] = SiteTargets(whole=whole, rows=rows, activations=Activations(world.prefix, whole))
    return Targets(kind=kind, sites=sites)


def examples_in(rows: int, *, of: Examples) -> int:
    """How many examples so many ``rows`` of the model's are, one at least."""
    return max(1, rows // of.rows_an_example)


def _changed(
    world: World, examples: Examples, rows: NDArray[np.int64], *, kind: Kind, generator: np.random.Generator
) -> Examples:
    """A site's examples, those at ``rows`` made up."""
    if isinstance(examples, FoldedExamples):
        own = examples.places[rows][examples.there[rows]]
        return replace(examples, rows=_changed(world, examples.rows, own, kind=kind, generator=generator))
    if kind == "labels" and examples.labels is not None:
        labels, classes = examples.labels.copy(), len(world.labels)
        labels[rows] = (labels[rows] + generator.integers(1, classes, len(rows))) % classes
        return ChosenExamples(examples, blank=np.zeros(len(examples), bool), labels=labels)
    if kind == "text" and isinstance(examples, TokenExamples):
        adapted = world.adapted
        task = adapted.task.of_rows if isinstance(adapted.task, GroupTask) else adapted.task
        made_up = task.made_up(adapted, generator, examples.sizes[rows])
        if isinstance(made_up, TokenExamples):
            tokens = examples.tokens.copy()
            tokens[positions(examples.offsets, rows)] = made_up.tokens
            return replace(examples, tokens=tokens)
    return examples
