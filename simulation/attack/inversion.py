"""Inversion: which tokens of a text an honest-but-curious coordinator recovers from what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privacy.errors import UserError
from protocol.job.aggregation import MasksSection, PlainSection
from protocol.job.job import Job, MetricsSection
from runs.progress import Progress, Silence
from simulation.attack.attackable import check_canaries_fit, rounds_add_up
from simulation.attack.attacked_run import attacked_run
from simulation.attack.finding import Finding
from simulation.attack.observed import moved
from simulation.attack.provenance import Tracing
from simulation.attack.readable_texts import ReadableTexts, module_of
from simulation.attack.token_search import TokenSearch
from simulation.attack.token_span import TokenSpan
from simulation.simulated_federation import World
from tasks.data.token_examples import TokenExamples
from tasks.model.frozen_prefix import Activations

Method = Literal["pooled", "span"]
ViewName = Literal["update", "sum", "private sum"]
# From what a step moved, by tensor, to the tokens that it tells.
Finder = Callable[[Mapping[str, NDArray[np.float64]]], frozenset[int]]
# Other texts that guesses are held against, to know what is found by chance.
_OTHERS = 50
_SILENCE = Silence()


@dataclass(frozen=True, kw_only=True)
class View:
    """What was recovered from one thing that a coordinator may read; all are means over the texts.

    A step was of ``batch`` texts at each site. ``recall`` is the share of a text's different tokens that
    was guessed, ``precision`` the share of the guesses that are in it, 0 without guesses; ``chance`` is the
    recall of the same guesses for other texts of the site.
    """

    name: ViewName
    batch: int
    recall: float
    precision: float
    chance: float


@dataclass(frozen=True, kw_only=True)
class Inversion(Finding):
    """What a coordinator recovered of so many ``texts`` of one ``site``, by one ``method``."""

    site: str
    sites: int
    epsilon: float
    method: Method
    texts: int
    views: tuple[View, ...]


def attack_inversion(
    job: Job,
    *,
    texts: int = 4,
    batches: Sequence[int] = (),
    seed: int | None = None,
    progress: Progress = _SILENCE,
) -> Inversion:
    """Recover tokens from a site's update, from a sum under masks, and from that sum with the job's noise.

    Each is the first round of a run of one step, in which all that a site has is drawn: so many texts as
    ``batches`` say, or else one, and as many as the job's batch. Of one text is the worst there is.
    ``seed`` repeats which texts are attacked. Raises UserError for what the job's author can mend: a task
    that is not on texts, no noise, or a round that is more than a mean.
    """
    if not job.privacy.protects or job.privacy.unit != "example":
        raise UserError(
            f'expected privacy.unit="example" and noise, got unit={job.privacy.unit!r} and '
            f"mechanism={job.privacy.mechanism!r}: the sum with noise is held against that without, and "
            "words are sought of single texts"
        )
    if any(size < 1 for size in batches):
        raise UserError(f"expected batches of 1 text or more, got {', '.join(map(str, batches))}")
    if not rounds_add_up(job):
        raise UserError(
            f'strategy.name="{job.strategy.name}": expected rounds that release a plain mean of what sites '
            'send, with SGD, no compression and no weights: use strategy.name="fedsvd" or "ffa"'
        )
    check_canaries_fit(job)
    tracing = Tracing(seed)
    progress.stage("Reading the data and loading the base model")
    with tracing.running():
        world = World(job)
    site, generator = world.site_names[0], np.random.default_rng(tracing.seed)
    readable = ReadableTexts(world)
    progress.stage("Looking at every word of the vocabulary")
    method, find = _finder(world, readable)
    examples = {name: _tokens(world, name) for name in world.site_names}
    chosen = generator.permutation(len(examples[site]))[: texts + _OTHERS]
    attacked = chosen[:texts]
    known = [readable.bare(_text(examples[site], row)) for row in chosen]
    most, views = min(len(one) for one in examples.values()), []
    for size in sorted({min(size, most) for size in batches or (1, job.training.batch_size)}):
        kinds = _jobs(job, size)
        told: dict[ViewName, list[tuple[float, float, float]]] = {name: [] for name in kinds}
        for number, row in enumerate(attacked):
            rows = _draw(examples, site, int(row), size, generator)
            # What the frozen layers make of these texts is computed once for all that is read of them.
            held = {name: _kept(world, one.take(rows[name])) for name, one in examples.items()}
            for name, kind in kinds.items():
                progress.stage(f"Text {number + 1} of {len(attacked)}: the {name} of {size} a site")
                there = {site: held[site]} if name == "update" else held
                guessed = find(_released(world, kind, there, tracing))
                told[name].append(_told(guessed, known[number], known[len(attacked) :]))
        for name, of_each in told.items():
            recall, precision, chance = (float(np.mean(one)) for one in zip(*of_each, strict=True))
            views.append(View(name=name, batch=size, recall=recall, precision=precision, chance=chance))
    return Inversion(
        job=job.name,
        site=site,
        sites=len(world.site_names),
        epsilon=job.privacy.epsilon,
        method=method,
        texts=len(attacked),
        views=tuple(views),
        provenance=tracing.end(world, "inversion", texts=texts, batch=tuple(batches)),
    )


def _finder(world: World, readable: ReadableTexts) -> tuple[Method, Finder]:
    """The attack that serves: on a head's features where one is trained, on the lowest layers else."""
    adapted = world.adapted
    adapted.load(world.initial_adapter)
    adapted.peft.eval()
    heads = [
        slot.name
        for slot in adapted.layout.slots
        if slot.sent and ".lora_" not in slot.name and len(slot.shape) == 2
    ]
    if heads:
        search = TokenSearch(readable, head=module_of(heads[0]))

        def by_features(tensors: Mapping[str, NDArray[np.float64]]) -> frozenset[int]:
            adapted.load(world.initial_adapter)
            adapted.peft.eval()
            return search.find(tensors[heads[0]], tensors.get(heads[0].removesuffix("weight") + "bias"))

        return "pooled", by_features
    return "span", TokenSpan(readable, adapted.layout, adapted.layout.split(world.initial_adapter)).find


def _tokens(world: World, name: str) -> TokenExamples:
    examples = world.examples(name)
    if not isinstance(examples, TokenExamples):
        raise UserError(f'expected a task on texts, got task="{world.job.task}"')
    return examples


def _text(examples: TokenExamples, row: int) -> NDArray[np.int32]:
    return examples.tokens[examples.offsets[row] : examples.offsets[row + 1]]


def _draw(
    examples: Mapping[str, TokenExamples], site: str, row: int, size: int, generator: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """So many texts of each site, the attacked one among them."""
    drawn = {name: generator.permutation(len(one))[:size] for name, one in examples.items()}
    drawn[site] = np.array([row, *drawn[site][drawn[site] != row][: size - 1]], np.int64)
    return drawn


def _jobs(job: Job, size: int) -> dict[ViewName, Job]:
    """The job cut to one step over all that a site has, as it is, under masks, and with its noise."""
    training = job.training.model_copy(
        update={
            "rounds": 1,
            "local_steps": 1,
            "personal_steps": 0,
            "shrink": "none",  # which a run without noise has no use for
            "batch_size": size,
            "physical_batch_size": min(size, job.training.physical_batch_size),
        }
    )
    federation = job.federation.model_copy(update={"cohort": None, "min_sites": None})
    private = job.model_copy(
        update={
            "training": training,
            "federation": federation,
            "metrics": MetricsSection(),
            "aggregation": MasksSection(),
        }
    )
    silent = private.model_copy(update={"privacy": job.privacy.model_copy(update={"mechanism": "none"})})
    return {
        "update": silent.model_copy(update={"aggregation": PlainSection()}),
        "sum": silent,
        "private sum": private,
    }


def _kept(world: World, texts: TokenExamples) -> tuple[TokenExamples, Activations]:
    return texts, Activations(world.prefix, texts)


def _released(
    world: World, job: Job, texts: Mapping[str, tuple[TokenExamples, Activations]], tracing: Tracing
) -> dict[str, NDArray[np.float64]]:
    """What a round of these sites with these texts moved, times their number, by tensor."""
    attacked = world.variant(job, sites=tuple(texts)).with_examples(texts)
    layout = world.adapted.layout
    with attacked_run(attacked.unscored(), progress=Silence(), tracing=tracing) as folder:
        before, after = (folder.load_adapter(number, layout) for number in (0, 1))
    change = len(texts) * moved(layout, job.strategy, before, after)
    found, start = {}, 0
    for slot in (slot for slot in layout.slots if slot.trained):
        found[slot.name] = change[start : start + slot.size].reshape(slot.shape)
        start += slot.size
    return found


def _told(
    guessed: frozenset[int], text: frozenset[int], others: list[frozenset[int]]
) -> tuple[float, float, float]:
    """Recall, precision, and recall by chance."""
    hits = len(guessed & text)
    by_chance = [len(guessed & other) / max(1, len(other)) for other in others]
    return (
        hits / max(1, len(text)),
        hits / len(guessed) if guessed else 0.0,
        float(np.mean(by_chance)) if by_chance else 0.0,
    )
