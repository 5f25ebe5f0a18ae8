"""Optimizers of the coordinator's over a round's aggregate: Flower's own, given arrays in place of replies.

What is used of Flower's strategies beyond what they document is all here: that ``FedAvgM`` and ``FedOpt``
get the mean of the replies from ``FedAvg.aggregate_train``, in whose place the aggregate is given; and the
attributes in which they remember. ``tests/server/test_server_optimizer.py`` holds them to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flowers
from numpy.typing import NDArray

from privacy.errors import RunError
from protocol.job.layout import AdapterLayout
from protocol.job.server_section import ServerAdagrad, ServerAdam, ServerMomentum, ServerSection
from protocol.job.strategy import State, Strategy
from protocol.job.trained_rounds import TrainedRounds

Tensors = dict[str, NDArray[np.float32]]
_FIRST, _SECOND = "server.first.", "server.second."  # moments, by the tensor's name


def merge_round(
    rounds: TrainedRounds, state: State, aggregate: NDArray[np.float32], layout: AdapterLayout, number: int
) -> State:
    """The state after a round: what its rule makes of it, moved by the job's server optimizer if any.

    ``layout`` is the round's. Tensors that it does not train are left alone by the optimizer, and so is
    what it remembers of them: momentum of another round's tensors would make products inexact. What it
    remembers is in the state's memory, so that a run that was stopped goes on as one that was not.
    """
    strategy, merged = rounds.strategy, rounds.merge(state, aggregate, layout, number)
    if strategy.server is None:
        return merged
    old, new = layout.split(state.adapter), layout.split(merged.adapter)
    memory: dict[str, NDArray[Any]] = {**state.memory, **merged.memory}
    for step, names in _by_step(strategy, layout, number).items():
        start, end = ({name: tensors[name] for name in names} for tensors in (old, new))
        moved, moments = _move(strategy.server, start, end, memory, step)
        new |= moved
        memory |= moments
    return State(adapter=layout.join(new), memory=memory)


def _by_step(strategy: Strategy, layout: AdapterLayout, number: int) -> dict[int, list[str]]:
    """The tensors that the round trains, by how many rounds have trained them, this one among them."""
    whole, rest = divmod(number, strategy.cycle)
    found: dict[int, list[str]] = {}
    for slot in layout.slots:
        turns = [strategy.trains_in(slot.name, turn) for turn in range(1, strategy.cycle + 1)]
        if slot.trained:
            found.setdefault(whole * sum(turns) + sum(turns[:rest]), []).append(slot.name)
    return found


def _move(
    section: ServerSection, old: Tensors, new: Tensors, memory: Mapping[str, NDArray[Any]], step: int
) -> tuple[Tensors, Tensors]:
    """The tensors that the optimizer makes of ``old`` where averaging makes ``new``, and its moments."""
    first, second = (
        {name: memory.get(prefix + name, np.zeros_like(tensor)) for name, tensor in old.items()}
        for prefix in (_FIRST, _SECOND)
    )
    if isinstance(section, ServerMomentum):
        momentum = _GivenAvgM(server_learning_rate=section.learning_rate, server_momentum=section.momentum)
        momentum.current_arrays = _record(old)
        momentum.momentum_vector = list(first.values())
        moved = _given(momentum, new, step)
        return moved, _named(_FIRST, dict(zip(old, momentum.momentum_vector, strict=True)))
    optimizer = _adaptive(section)
    optimizer.current_arrays, optimizer.m_t, optimizer.v_t = dict(old), first, second
    moved = _given(optimizer, new, step)
    return moved, _named(_FIRST, optimizer.m_t) | _named(_SECOND, optimizer.v_t)


class _Given(flowers.FedAvg):  # type: ignore[misc]  # Flower's types are not followed
    """In the place of Flower's mean of replies: the aggregate that there is."""

    given: ArrayRecord

    def aggregate_train(
        self,
        server_round: int,  # noqa: ARG002
        replies: Iterable[Message],  # noqa: ARG002
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return self.given, None


class _GivenAvgM(flowers.FedAvgM, _Given):  # type: ignore[misc]
    pass


class _GivenAdam(flowers.FedAdam, _Given):  # type: ignore[misc]
    pass


class _GivenYogi(flowers.FedYogi, _Given):  # type: ignore[misc]
    pass


class _GivenAdagrad(flowers.FedAdagrad, _Given):  # type: ignore[misc]
    pass


def _adaptive(section: ServerAdam | ServerAdagrad) -> Any:
    if isinstance(section, ServerAdam):
        kind = _GivenAdam if section.optimizer == "fedadam" else _GivenYogi
        return kind(eta=section.learning_rate, beta_1=section.beta1, beta_2=section.beta2, tau=section.tau)
    return _GivenAdagrad(eta=section.learning_rate, tau=section.tau)


def _given(optimizer: Any, aggregate: Tensors, step: int) -> Tensors:
    """What Flower's strategy makes of an aggregate; it warns of nothing, and counts steps from 1."""
    optimizer.given = _record(aggregate)
    moved, _ = optimizer.aggregate_train(step, [])
    if moved is None:
        raise RunError(
            "Flower's optimizer gives nothing back for an aggregate: use the version that is locked"
        )
    return {name: array.numpy().astype(np.float32) for name, array in moved.items()}


def _record(tensors: Tensors) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(tensor)) for name, tensor in tensors.items()})


def _named(prefix: str, moments: Mapping[str, NDArray[Any]]) -> Tensors:
    return {prefix + name: np.asarray(moment, np.float32) for name, moment in moments.items()}
