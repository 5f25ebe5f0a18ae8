"""Activations below the lowest adapter: computed once per example and kept.

Layers under the lowest adapter never change and run without dropout, so the input of the first
adapted layer is a function of the example alone. It is stored without padding. A forward pass then
starts at that layer, or at the head where that is all there is, with the same result to rounding.
Where a model does not work like that, which is tried on made-up examples, each pass starts at its
beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from privacy.errors import RunError
from tasks.data.examples import Batch, Examples, offsets_of, positions
from tasks.data.shapes import Shapes
from tasks.model import activation_store
from tasks.model.adapted_model import AdaptedModel
from tasks.model.computed_rows import Computed, one_by_one, side_by_side
from tasks.model.forward_cut import ForwardCut, HeadCut, LayerCut
from tasks.model.model_layers import LayerList, layer_lists, layer_number
from tasks.task import ReferenceTask, WritingTask

log = logging.getLogger("confide.activations")

_TOLERANCE = 1e-4
_FILL_BATCH = 64


class FrozenPrefix:
    """The frozen part of one model, and how to start a forward pass above it.

    Where a head is all that is trained, that is all below the head, if the model can be cut there.
    """

    def __init__(self, adapted: AdaptedModel) -> None:
        self._adapted = adapted
        self._cuts = _find_cuts(adapted)
        self._cut = self._cuts[0]

    @property
    def depth(self) -> int:
        """How many layers lie under what is trained or adapted; 0 means there is nothing to keep."""
        return self._cut.depth

    @property
    def reads_inputs(self) -> bool:
        """Whether a forward pass that starts above looks at the model's inputs."""
        return self._cut.reads_inputs

    @property
    def device(self) -> torch.device:
        """Where the layers compute."""
        return self._adapted.device.torch

    def probe(self) -> Batch:
        """A batch to try the model on that says nothing about anyone's data."""
        examples = self._adapted.probe()
        return examples.batch(np.arange(len(examples)))

    @cached_property
    def kept_as(self) -> tuple[int, torch.dtype] | None:
        """The width and the type of what is kept of a place in an example; None if nothing should be.

        Whether replay is right for this model is tried once, on made-up examples, for all who keep some.
        Of examples that the model writes anew each round nothing is.
        """
        if isinstance(self._adapted.task, WritingTask) or not self.works():
            return None
        hidden = self.compute(self.probe().to(self.device))
        return hidden.shape[-1], hidden.dtype

    def compute(self, batch: Batch) -> torch.Tensor:
        """What crosses into the first adapted layer, [b, t, width], for a batch on the device.

        The width is that of the layer, for each of an example's rows.
        """
        found = self._cut.below(lambda: self._adapted.forward(batch))
        return side_by_side(found, batch.rows_an_example)

    def reference(self, batch: Batch, hidden: torch.Tensor) -> torch.Tensor | None:
        """What the model made of a batch before training, [b, …], for a task that compares with that."""
        task = self._adapted.task
        if not isinstance(task, ReferenceTask):
            return None
        with torch.no_grad(), self.replay(hidden, batch.rows_an_example):
            return task.reference(self._adapted, batch)

    @contextmanager
    def replay(self, hidden: torch.Tensor, rows_an_example: int = 1) -> Iterator[None]:
        """Within this block a forward pass starts from what ``compute`` found, at that layer."""
        with self._cut.above(one_by_one(hidden, rows_an_example)):
            yield

    def works(self) -> bool:
        """Whether a cut of the model gives the same from kept activations: the first that does is taken."""
        *found, beginning = self._cuts
        for cut in found:
            self._cut = cut
            if self._gives_the_same():
                return True
        self._cut = beginning
        return False

    def _gives_the_same(self) -> bool:
        """Whether the model's own last layer gives the same from kept activations, on made-up examples.

        Models that look layers up by number compute something else when lower ones are left out; in some,
        rows are no examples between the layers, or what is computed of a text depends on how far it is
        padded. Losses would not show it: under a head that starts at zero they are all the same. The
        adapter is at rest, so that what was loaded last does not decide; its dropout is off, which would
        draw another mask for each pass, and so is bfloat16, which rounds otherwise in another width.
        """
        adapted, examples = self._adapted, self._adapted.probe()
        peft, training, device = adapted.peft, adapted.peft.training, adapted.device
        batch = examples.batch(np.arange(len(examples)), size=adapted.sizes.public[-1]).to(device.torch)
        kept = Activations(self, examples)
        peft.eval()
        adapted.device = replace(device, bfloat16=False)
        try:
            with torch.no_grad(), adapted.at_rest():
                self._cut.stir()
                expected = self._last_output(batch)
                for index in range(len(examples)):  # each in its own width
                    kept.fill(np.array([index]))
                with kept.replay(batch) as known:
                    replayed = self._last_output(known)
            whole = expected.shape[1] != batch.size  # an example's places became one
            real = slice(None) if whole else kept.real(batch)
            off = float((expected[real] - replayed[real]).norm())
            return off <= _TOLERANCE * float(expected[real].norm())
        except Exception as error:  # a model's code raises whatever it likes
            log.info("activations are not kept under layer %d: %s", self.depth, error)
            return False
        finally:
            adapted.device = device
            peft.train(training)

    def _last_output(self, batch: Batch) -> torch.Tensor:
        """What the last layer gives for a batch on the device, in its last pass: [b, t, …]."""
        found = self._cut.outcome(lambda: self._adapted.forward(batch))
        return side_by_side(found.float().cpu(), batch.rows_an_example)


class Activations:
    """The kept activations of one set of examples, filled as examples are first seen."""

    def __init__(self, prefix: FrozenPrefix, examples: Examples, *, folder: Path | None = None) -> None:
        self._prefix = prefix
        self._examples = examples
        self._folder = folder
        self._works: bool | None = None
        self._shapes: Shapes | None = None
        self._sizes, self._offsets = examples.sizes, offsets_of(examples.sizes)
        self._known = self._sizes == 0  # of a blank one there is nothing to keep
        self._store = torch.empty(0, 0)
        self._reference: torch.Tensor | None = None  # [n, …], where the task compares with any

    @property
    def work(self) -> bool:
        """Whether keeping activations is right for this model, and there is room: tried once.

        How much room it takes depends on how long the examples are: where there is too little, everything
        is computed each time, and nothing fails.
        """
        if self._works is None:
            kept_as = self._prefix.kept_as
            self._works = kept_as is not None and self._has_room(*kept_as)
        return self._works

    @property
    def nbytes(self) -> int:
        """The memory that all of them take once they are computed; 0 if none are kept, or in a file."""
        kept_as = self._prefix.kept_as
        size = 0 if kept_as is None else int(self._offsets[-1]) * kept_as[0] * kept_as[1].itemsize
        return 0 if size > activation_store.MEMORY_LIMIT_BYTES else size

    def _has_room(self, width: int, dtype: torch.dtype) -> bool:
        try:
            self._store = self._allocate(width, dtype)
        except (OSError, RuntimeError, RunError) as error:
            log.warning("activations are not kept, which takes longer: %s", error)
            return False
        return True

    @contextmanager
    def replay(self, batch: Batch) -> Iterator[Batch]:
        """Run the adapted layers on ``batch`` (on the device) from kept activations.

        The batch that comes has what the model made of it before training, if that is kept, as
        ``reference``.
        """
        hidden = self.fetch(batch, rows=len(batch))
        with self.starting_at(hidden, batch, self.fetch_reference(batch, rows=len(batch))) as known:
            yield known

    @contextmanager
    def starting_at(
        self, hidden: torch.Tensor, batch: Batch, reference: torch.Tensor | None
    ) -> Iterator[Batch]:
        """Within this block a forward pass begins with ``hidden``, [b, t, width]; both were fetched."""
        with self._prefix.replay(hidden, batch.rows_an_example):
            known = replace(batch, kept=not self._prefix.reads_inputs)
            yield known if reference is None else known.beside(reference=reference)

    def of(self, examples: Examples) -> Activations:
        """An empty store of other examples for the same model."""
        return Activations(self._prefix, examples)

    def fill(self, indices: NDArray[np.int64], shapes: Shapes | None = None) -> None:
        """Compute what is not yet kept of the examples at ``indices``, in batches of ``shapes``.

        What was computed in other shapes is forgotten first: it may differ in its last bits, and which
        examples it is of may depend on who was drawn then. Of those that the model fails on nothing is
        kept, and to replay them raises RunError. Without shapes, batches are cut to the examples: for those
        whose privacy nobody promised.
        """
        missing = self.missing(indices, shapes)
        if shapes is None:
            batches = self._examples.batches(missing, rows=_FILL_BATCH)
        else:
            # What would be a blank row may as well be of use later.
            whole = shapes.filled_up(self._examples, missing, self.unknown(beside=missing))
            batches = shapes.batches(self._examples, whole)
        for batch in batches:
            for part, found in self.compute(batch):
                self.keep(part.indices, found, size=part.size)

    def missing(self, indices: NDArray[np.int64], shapes: Shapes | None) -> NDArray[np.int64]:
        """Those of the examples at ``indices`` that are not kept as they are computed in ``shapes``."""
        if shapes is not None and shapes != self._shapes:
            self._shapes, self._known = shapes, self._sizes == 0
        missing: NDArray[np.int64] = indices[~self._known[indices]]
        return missing

    def unknown(self, *, beside: NDArray[np.int64]) -> NDArray[np.int64]:
        """All examples of which nothing is kept, but for those at ``beside``."""
        known = self._known.copy()
        known[beside] = True
        found: NDArray[np.int64] = np.flatnonzero(~known)
        return found

    def keep(self, indices: NDArray[np.int64], found: Computed, *, size: int) -> None:
        """Keep what was computed of these examples, on the CPU, without its padding."""
        rows = found.hidden[self._real(indices, size)]
        if len(self._store) == 0:
            self._store = self._allocate(rows.shape[1], rows.dtype)
        self._store[self._positions(indices)] = rows
        if found.reference is not None:
            if self._reference is None:
                self._reference = found.reference.new_zeros(len(self._sizes), *found.reference.shape[1:])
            self._reference[torch.from_numpy(indices)] = found.reference
        self._known[indices] = True

    def compute(self, batch: Batch) -> list[tuple[Batch, Computed]]:
        """What goes into the first adapted layer, for the examples that the model does not fail on.

        One must not decide about the others: where a batch fails, each is computed in its shape alone. Each
        part comes with what was found of its n examples, on the CPU.
        """
        try:
            there, count = batch.to(self._prefix.device), len(batch.indices)
            hidden = self._prefix.compute(there)
            reference = self._prefix.reference(there, hidden)
            whole = Computed(hidden=hidden.cpu(), reference=None if reference is None else reference.cpu())
            return [(batch, whole.part(0, count))]
        except Exception as error:
            log.warning("the model fails below its first adapted layer: %s", type(error).__name__)
            parts = batch.apart() if len(batch.indices) > 1 else ()
            return [found for alone in parts for found in self.compute(alone)]

    def fetch(self, batch: Batch, *, rows: int) -> torch.Tensor:
        """What is kept of a batch's examples, [rows, size, width] on the device; other rows are zero.

        Raises RunError for an example that the model fails on.
        """
        self.fill(batch.indices, self._shapes)
        if not self._known[batch.indices].all():
            raise RunError("the model fails on an example before its first adapted layer")
        hidden = torch.zeros((rows, batch.size, self._store.shape[1]), dtype=self._store.dtype)
        hidden[: len(batch.indices)][self.real(batch)] = self._store[self._positions(batch.indices)]
        return hidden.to(self._prefix.device)

    def fetch_reference(self, batch: Batch, *, rows: int) -> torch.Tensor | None:
        """What is kept of what the model made of a batch's examples before training, [rows, …]."""
        if self._reference is None:
            return None
        found = self._reference.new_zeros(rows, *self._reference.shape[1:])
        found[: len(batch.indices)] = self._reference[torch.from_numpy(batch.indices)]
        return found.to(self._prefix.device)

    def _allocate(self, width: int, dtype: torch.dtype) -> torch.Tensor:
        return activation_store.allocate(int(self._offsets[-1]), width, dtype, folder=self._folder)

    def _positions(self, indices: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(positions(self._offsets, indices))

    def real(self, batch: Batch) -> torch.Tensor:
        """Where the batch has its examples, without padding and blank rows: bool[n, size]."""
        return self._real(batch.indices, batch.size)

    def _real(self, indices: NDArray[np.int64], size: int) -> torch.Tensor:
        return torch.from_numpy(np.arange(size)[None, :] < self._sizes[indices][:, None])


def _find_cuts(adapted: AdaptedModel) -> tuple[ForwardCut, ...]:
    """Where the model may be cut, the best first: under the first layer with a LoRA tensor or trained bias.

    Trained or not: a pair may be moved later. Nowhere if one lies outside the layers: it may be under them.
    A head lies above; without any pair there is only that. The last is the model's beginning, below which
    there is nothing to keep.
    """
    model, heads = adapted.peft.get_base_model(), adapted.base.head
    lists = layer_lists(model)
    found = lists[0] if lists else LayerList(name="", owner=model, layers=nn.ModuleList())
    beginning = LayerCut(found, 0)
    numbers = {
        layer_number(name, (found,))
        for name, parameter in model.named_parameters()
        if "lora_" in name or (parameter.requires_grad and ".modules_to_save." not in name)
    }
    if numbers or adapted.base.trained_whole or len(heads) != 1:
        depth = min((number or 0 for number in numbers), default=0)
        return (LayerCut(found, depth), beginning) if depth else (beginning,)
    head, count = model.get_submodule(heads[0]), len(found.layers)
    last = (LayerCut(found, count - 1, head=head),) if count > 1 else ()
    return (HeadCut(model, heads[0], depth=count), *last, beginning)
