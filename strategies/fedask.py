"""FedASK: sites send sketches of their products, and the sum of these tells the mean product."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from protocol.job.layout import AdapterLayout, Pair, TensorSlot
from protocol.job.section import COHORT_MAX
from protocol.job.strategy import State, Strategy
from strategies.factors import for_each
from strategies.sketch import Matrix, Sketch, SketchSize

if TYPE_CHECKING:
    from protocol.job.job import Job


class FedASK(Strategy):
    """After each round the pair is the best one for the mean product, which a sum of sketches tells.

    A site sends Y = P·Ω and W = Ψ·P of what its product P = B·A has moved by, with mixtures Ω and Ψ that
    are public and new in each round. Sketches add up as products do, so that a sum is enough, under masks
    as well. The mean product comes out of it exactly if its rank is at most ``sketch``, and n sites of rank
    r have one of n · r at most; otherwise nearly (``strategies.sketch``). The pair keeps the directions of
    the adapter's rank that hold the most.

    The paper asks twice in a round: for Y, and then for P's part along an orthonormal basis of ΣY. Here
    both sides are sketched at once, by mixtures of rows drawn beforehand, as for streams: one message, one
    sum under masks a round, and nobody who answers the first and not the second.

    Privacy. With ``unit = "example"`` the steps have their noise and were charged; Y and W are functions of
    what came of them, of the adapter that was sent and of public numbers. So they are post-processing, and
    as many of them as one likes cost nothing more. With ``unit = "site"`` they are clipped as one vector,
    and the noise is in their sum; what follows is post-processing of that.

    Sources: Wen et al. 2025 (arXiv:2507.09990), section 4, for the sketches of products and the split of
    singular values among both factors; Tropp et al. 2017 (arXiv:1609.00048), algorithm 4, for one pass.
    """

    name: Literal["fedask"] = "fedask"
    # Unset: 2 · rank + 1 of each layer.
    sketch: Annotated[int, Field(ge=1, le=COHORT_MAX)] | None = None
    paper: ClassVar[str] = "Wen et al. 2025, FedASK (arXiv:2507.09990)"
    basis_turns: ClassVar[bool] = True

    def allows(self, job: Job) -> None:
        super().allows(job)
        rank = max([job.adapter.rank, *(job.adapter.rank_pattern or {}).values()])
        if self.sketch is not None and self.sketch < rank:
            raise ValueError(
                f"strategy.sketch: expected the adapter's rank or more, or the next adapter would have "
                f"less: expected {rank} at least, got {self.sketch}"
            )
        masks = job.aggregation.kind == "masks" and not job.privacy.hides_sites
        if masks and job.masks.modulus_bits != 32:
            # A narrow grid is made for what steps on factors may be. What is longer would wrap around.
            raise ValueError(
                f'aggregation.modulus_bits: expected 32 with strategy.name="{self.name}", whose sketches '
                f"are as long as the factors make them, got {job.masks.modulus_bits}"
            )

    def sized(self, layout: AdapterLayout) -> AdapterLayout:
        numbers = sum(form.numbers for form in self._forms(layout))
        return replace(layout, length=numbers + sum(slot.size for slot in _plain(layout)))

    def encode(
        self, layout: AdapterLayout, before: NDArray[np.float32], after: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        start, end = layout.matrices(before), layout.matrices(after)
        update = np.empty(layout.update_size, np.float32)
        plain, sketches = self._parts(layout, update)
        for name, part in plain.items():
            part[...] = (end[name] - start[name]).reshape(part.shape)
        for pair, layer in sketches.items():
            a, b = (start[name].astype(np.float64) for name in (pair.a, pair.b))
            new_a, new_b = (end[name].astype(np.float64) for name in (pair.a, pair.b))
            # B'·A' - B·A, so that what has not moved is zero to the last bit.
            left, right = np.hstack([new_b - b, b]), np.vstack([new_a, new_a - a])
            layer.numbers[:] = layer.drawn(start).of(left, right)
        return update

    def merge(
        self,
        state: State,
        aggregate: NDArray[np.float32],
        layout: AdapterLayout,
        round_number: int,  # noqa: ARG002 - all are alike
    ) -> State:
        merged = state.adapter.copy()
        before, tensors = layout.matrices(state.adapter), layout.matrices(merged)
        plain, sketches = self._parts(layout, aggregate)
        for name, mean in plain.items():
            tensors[name] += mean.reshape(tensors[name].shape)

        def merge_layer(pair: Pair) -> None:
            drawn = sketches[pair].drawn(before)
            a, b = before[pair.a].astype(np.float64), before[pair.b].astype(np.float64)
            found = drawn.factors(sketches[pair].numbers + drawn.of(b, a))
            tensors[pair.b][:], tensors[pair.a][:] = _balanced(*found, otherwise=a)

        for_each(layout.pairs, merge_layer)
        return State(adapter=merged, memory=state.memory)

    def _forms(self, layout: AdapterLayout) -> Iterator[SketchSize]:
        """What is sketched of each layer."""
        shapes = {slot.name: slot.shape for slot in layout.slots}
        for pair in layout.pairs:
            (rank, *columns), rows = shapes[pair.a], shapes[pair.b][0]
            size = 2 * rank + 1 if self.sketch is None else self.sketch
            yield SketchSize(rows=rows, columns=prod(columns), size=size)

    def _parts(
        self, layout: AdapterLayout, update: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[np.float32]], dict[Pair, _Layer]]:
        """An update's parts (views): tensors beside the pairs, by name, and then each layer's sketch."""
        slots, forms = _plain(layout), tuple(self._forms(layout))
        ends = np.cumsum([slot.size for slot in slots] + [form.numbers for form in forms])
        cuts = iter(np.split(update, ends[:-1]))
        plain = {slot.name: next(cuts).reshape(slot.shape) for slot in slots}
        layers = {
            pair: _Layer(pair=pair, form=form, numbers=next(cuts))
            for pair, form in zip(layout.pairs, forms, strict=True)
        }
        return plain, layers


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """A layer's part of an update: ``numbers``, float32[form.numbers]."""

    pair: Pair
    form: SketchSize
    numbers: NDArray[np.float32]

    def drawn(self, tensors: Mapping[str, NDArray[np.float32]]) -> Sketch:
        """The layer's sketch in a round: it follows from the factors that all sites begin with."""
        factors = (
            np.ascontiguousarray(tensors[name], "<f4").tobytes() for name in (self.pair.a, self.pair.b)
        )
        digest = hashlib.sha256(b"confide fedask" + b"".join(factors)).digest()
        return self.form.drawn(int.from_bytes(digest, "little"))


def _plain(layout: AdapterLayout) -> tuple[TensorSlot, ...]:
    """What is sent as it is: the head, biases."""
    factors = {name for pair in layout.pairs for name in (pair.a, pair.b)}
    return tuple(slot for slot in layout.slots if slot.sent and slot.name not in factors)


def _balanced(q: Matrix, x: Matrix, *, otherwise: Matrix) -> tuple[Matrix, Matrix]:
    """The best B, float64[out, rank], and A, float64[rank, in], for Q·X = U·S·Vᵀ: U·√S and √S·Vᵀ.

    ``otherwise``, float64[rank, in], is the A before: its rows stay where a product of lower rank needs
    none, beside a B of zero, so that they can still learn.
    """
    rank = len(otherwise)
    # Of X·Xᵀ, whose eigenvectors W make U = Q·W: with Wᵀ·X for S·Vᵀ the product loses nothing by squares.
    vectors = np.linalg.eigh(x @ x.T)[1][:, ::-1][:, :rank]
    left, right = q @ vectors, vectors.T @ x
    lengths = np.linalg.norm(right, axis=1)
    # What is shorter is what sketches in float32 round: a pair of it would hardly learn.
    kept = int((lengths > lengths[0] * 2.0**-20).sum())
    # The sign of each pair of vectors is free: fix it, so that platforms agree.
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    scales = (signs * np.sqrt(lengths))[:kept]
    b, a = np.zeros((len(q), rank)), otherwise.copy()
    b[:, :kept], a[:kept] = left[:, :kept] * scales, right[:kept] / scales[:, None]
    return b, a
