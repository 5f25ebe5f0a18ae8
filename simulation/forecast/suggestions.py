"""What would lower the noise of a job: changes to it, each planned anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from privacy.errors import PlanError
from protocol.job.layout import TensorSlot
from protocol.job.noise_correlation import check_correlation
from protocol.job.strategy import default_strategy
from simulation.forecast.noise_level import Setup

# A change that lowers the noise by less is not worth a line.
_WORTH = 0.95
# Sites of more sizes than this are stood for by as many: a plan takes a tenth of a second.
_SIZES = 9
# Few lose little where noise is high, and gain most of what there is where it is low.
_BANDS = 4


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A change, and noise against signal over the run before and after it.

    ``settings`` are what ``--set`` takes; empty if the change is not one of the job's keys.
    """

    text: str
    settings: tuple[str, ...]
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class _Change:
    text: str
    settings: tuple[str, ...]
    setup: Setup


def suggest(setup: Setup, *, run: float) -> tuple[Suggestion, ...]:
    """The changes that apply to a job and help it, the most helpful first.

    ``run`` is the noise level that they start from, ``setup.noise_level().run``. Those that only cost time
    or freedom of the adapter are, if there are several, also suggested all at once.
    """
    setup = replace(setup, examples=_representatives(setup.examples))
    changes = [change for make in (*_FREE, *_OTHERS) if (change := make(setup)) is not None]
    together = _together(setup)
    found = [
        Suggestion(text=change.text, settings=change.settings, before=run, after=after)
        for change in (*changes, *([together] if together else []))
        if (after := _after(setup, change.setup, run)) is not None and after <= _WORTH * run
    ]
    return tuple(sorted(found, key=lambda suggestion: suggestion.after))


def _after(before: Setup, after: Setup, run: float) -> float | None:
    try:
        return run * after.noise_level().run / before.noise_level().run
    except (PlanError, ZeroDivisionError):
        return None  # no such plan, or no noise to lower


def _representatives(examples: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(examples)) <= _SIZES:
        return examples
    shares = np.linspace(0, 1, _SIZES)
    return tuple(int(size) for size in np.quantile(examples, shares, method="nearest"))


def _together(setup: Setup) -> _Change | None:
    """Every free change that helps by itself, one after another."""
    changed, count = setup, 0
    settings: list[str] = []
    for make in _FREE:
        change = make(changed)
        if change is not None and (_after(changed, change.setup, 1.0) or 1.0) <= _WORTH:
            changed, settings = change.setup, [*settings, *change.settings]
            count += 1
    if count < 2:
        return None
    return _Change(text=f"{count} of these together", settings=tuple(settings), setup=changed)


def _with(setup: Setup, section: str, **values: object) -> Setup:
    """The setup with some keys of one of the job's sections changed."""
    changed = getattr(setup.job, section).model_copy(update=values)
    return replace(setup, job=setup.job.model_copy(update={section: changed}))


def _frozen_a(setup: Setup) -> _Change | None:
    """The default strategy, where it goes with the job and trains less than the job's own."""
    strategy = default_strategy()
    trained = {slot.name for slot in setup.layout.slots if slot.trained}
    job = setup.job.model_copy(update={"strategy": strategy})
    try:
        strategy.allows(job)
        check_correlation(job)
    except ValueError:
        return None
    if all(strategy.trains(name) for name in trained):
        return None
    return _Change(
        text="LoRA's A frozen",
        settings=(f"strategy.name={strategy.name}",),
        setup=_relaid(replace(setup, job=job), setup.layout.slots),
    )


def _larger_batch(setup: Setup) -> _Change | None:
    size = 2 * setup.job.training.batch_size
    if size > min(setup.examples):
        return None
    return _Change(
        text="twice the batch",
        settings=(f"training.batch_size={size}",),
        setup=_with(setup, "training", batch_size=size),
    )


def _lower_rank(setup: Setup) -> _Change | None:
    old = setup.job.adapter.rank
    rank = old // 2
    if not rank:
        return None
    changed = _with(setup, "adapter", rank=rank)

    def narrowed(slot: TensorSlot) -> TensorSlot:
        # A pattern's layers keep the rank that it gives them.
        layer, pair, half = slot.name.partition(".lora_")
        own = changed.job.adapter.rank_of(layer)
        if not pair:
            return slot
        rows, columns, *kernel = slot.shape
        sides = {"A": (own, columns), "B": (rows, own), "C": (own, own)}
        return replace(slot, shape=(*sides[half[0]], *kernel))

    slots = [narrowed(slot) for slot in setup.layout.slots]
    if slots == list(setup.layout.slots):
        return None
    return _Change(
        text="half the rank" if old % 2 == 0 else "a lower rank",
        settings=(f"adapter.rank={rank}",),
        setup=_relaid(changed, slots),
    )


def _fewer_layers(setup: Setup) -> _Change | None:
    numbers = sorted({n for slot in setup.layout.slots if (n := _layer_number(slot)) is not None})
    kept = numbers[len(numbers) // 2 :]
    if len(kept) == len(numbers):
        return None
    slots = [s for s in setup.layout.slots if (n := _layer_number(s)) is None or n in kept]
    if setup.job.adapter.unmatched(s.name.partition(".lora_")[0] for s in slots if ".lora_" in s.name):
        return None  # a pattern names layers that would have no adapter
    return _Change(
        text="adapters in the upper half of these layers",
        settings=(f"adapter.layers_to_transform={kept}".replace(" ", ""),),
        setup=_relaid(_with(setup, "adapter", layers_to_transform=kept), slots),
    )


def _correlated(setup: Setup) -> _Change | None:
    """Noise that later steps take back, where that goes with the job."""
    if setup.job.privacy.correlated or not setup.job.privacy.protects:
        return None
    changed = _with(setup, "privacy", noise_correlation="banded", bands=_BANDS)
    try:
        check_correlation(changed.job)
    except ValueError:
        return None
    return _Change(
        text=f"noise that later steps take back, in {_BANDS} bands",
        settings=("privacy.noise_correlation=banded", f"privacy.bands={_BANDS}"),
        setup=changed,
    )


def _gaussian(setup: Setup) -> _Change | None:
    if setup.job.privacy.norm == 2:
        return None
    return _Change(
        text="Gaussian noise",
        settings=("privacy.mechanism=gaussian",),
        setup=_with(setup, "privacy", mechanism="gaussian"),
    )


def _more_rounds(setup: Setup) -> _Change | None:
    training = setup.job.training
    rounds, rate = 2 * training.rounds, training.learning_rate / 2
    return _Change(
        text="twice the rounds at half the learning rate",
        settings=(f"training.rounds={rounds}", f"training.learning_rate={rate}"),
        setup=_with(setup, "training", rounds=rounds, learning_rate=rate),
    )


def _more_sites(setup: Setup) -> _Change | None:
    return _Change(
        text="twice the sites, the new ones as large",
        settings=(),
        setup=replace(setup, examples=2 * setup.examples),
    )


def _more_examples(setup: Setup) -> _Change | None:
    return _Change(
        text="twice the examples at each site",
        settings=(),
        setup=replace(setup, examples=tuple(2 * size for size in setup.examples)),
    )


def _weaker_privacy(setup: Setup) -> _Change | None:
    epsilon = min(2 * setup.job.privacy.epsilon, 1000.0)
    return _Change(
        text="twice the ε, and so weaker privacy",
        settings=(f"privacy.epsilon={epsilon:g}",),
        setup=_with(setup, "privacy", epsilon=epsilon),
    )


def _relaid(setup: Setup, slots: Iterable[TensorSlot]) -> Setup:
    """The setup with these tensors, laid out as its strategy does."""
    shapes = {slot.name: slot.shape for slot in slots}
    return replace(setup, layout=setup.job.strategy.lay_out(shapes))


def _layer_number(slot: TensorSlot) -> int | None:
    """The number of the layer that a LoRA tensor sits in; None for the head."""
    match = re.search(r"\.(\d+)\..*\.lora_", slot.name)
    return int(match.group(1)) if match else None


# What costs time or freedom of the adapter, and what needs other data or another promise.
_FREE: tuple[Callable[[Setup], _Change | None], ...] = (
    _frozen_a,
    _gaussian,
    _correlated,
    _fewer_layers,
    _lower_rank,
    _larger_batch,
)
_OTHERS: tuple[Callable[[Setup], _Change | None], ...] = (
    _more_rounds,
    _more_sites,
    _more_examples,
    _weaker_privacy,
)
