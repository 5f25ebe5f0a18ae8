"""Per-example gradients: what each example of a batch says of the adapter, by itself.

Three methods find them. ``StackedGradients``, in a file of its own, takes a whole batch where linear layers
and routed experts alone are trained. ``HookedGradients`` takes one of any model, by Opacus' hooks on each
layer: a sampler turns a layer's inputs and the gradients of its outputs into one gradient an example. A
module class that Opacus has no sampler for is computed by ``torch.func.vmap``, or by a sampler of its own,
registered with ``opacus.grad_sample.register_grad_sampler``. ``OneByOne`` needs nothing of a model but
autograd: it is what the others are compared with, and what serves where layers hide which example a row is
of.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from opacus.grad_sample import GradSampleHooks

from privacy.errors import PrivacyUnitError
from privacy.mechanisms.factored_gradients import Factors
from tasks.data.examples import Batch
from tasks.model.adapted_model import AdaptedModel

# By a tensor's name in the layout: [b, *shape], one gradient an example, or what became of them in a sum.
# One that few examples reach may be sparse, with a row for each of these.
Gradients = Mapping[str, torch.Tensor]
# The same as they are found: a linear layer's may be held as factors.
Found = Mapping[str, torch.Tensor | Factors]
# From a batch, wherever it lies, to one loss a row, on the model's device.
Loss = Callable[[Batch], torch.Tensor]

# Below the lowest adapter nothing needs a gradient, so the first hooked layer's input has none.
warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)


class Kept(Protocol):
    """What the frozen layers made of examples, of one owner or of several."""

    def replay(self, batch: Batch) -> AbstractContextManager[Batch]:
        """Within this block a forward pass on the batch that comes starts at the lowest adapted layer."""
        ...


class PerExampleGradients(Protocol):
    """One way to find the gradients of single examples, for the adapter of one model."""

    adapted: AdaptedModel
    batched: bool  # whether several examples take less time together than apart

    def backward(self, batch: Batch, loss: Loss) -> Found:
        """One gradient an example, [b, *shape] by a trained tensor's name, and none for blank rows.

        Between two calls the model is plain PyTorch, and nothing of a batch stays with it. Raises
        PrivacyUnitError if a tensor got no gradient, or gradients of something else than examples.
        """
        ...


class HookedGradients:
    """A batch at once, by Opacus' hooks, which leave PEFT's methods in place; in train mode alone.

    Raises PrivacyUnitError for layers that are computed again on the way back.
    """

    batched = True

    def __init__(self, adapted: AdaptedModel) -> None:
        if adapted.recomputed_for is not None:
            raise PrivacyUnitError(
                f"{adapted.recomputed_for}: expected false with adapters that need hooks to find "
                "gradients: they would take a layer that is computed twice for two"
            )
        self.adapted = adapted
        self._hook()

    def _hook(self) -> None:
        self._hooked = tuple(self.adapted.trained)
        self._hooks = GradSampleHooks(self.adapted.peft, loss_reduction="sum")
        self._hooks.disable_hooks()

    def backward(self, batch: Batch, loss: Loss) -> Gradients:
        if self._hooked != tuple(self.adapted.trained):  # a hook on what is not trained now would fail
            self.close()
            self._hook()
        self._hooks.enable_hooks()
        try:
            loss(batch).sum().backward()  # type: ignore[no-untyped-call]  # torch's
            return {
                name: of_examples(name, vars(parameter).get("grad_sample"), batch, like=parameter)
                for name, parameter in self.adapted.trained.items()
            }
        finally:
            self._hooks.disable_hooks()
            self._forget()

    def close(self) -> None:
        """Take the hooks off the model."""
        self._hooks.cleanup()

    def _forget(self) -> None:
        """Drop what a pass left, one that failed half-way too: the next would find it."""
        for module in self.adapted.peft.modules():
            for left in ("activations", "max_batch_len"):
                module.__dict__.pop(left, None)
        for parameter in self.adapted.trained.values():
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]  # Opacus'
            parameter.__dict__.pop("_current_grad_sample", None)
            parameter._forward_counter = 0  # type: ignore[attr-defined]  # Opacus'


class OneByOne:
    """An example at a time, by autograd alone: right for any model, and as many times slower."""

    batched = False

    def __init__(self, adapted: AdaptedModel) -> None:
        self.adapted = adapted

    def backward(self, batch: Batch, loss: Loss) -> Gradients:
        rows = [alone(self.adapted, one, loss) for one in batch.apart()]
        found = {}
        for name, parameter in self.adapted.trained.items():
            gradients = [row[name] for row in rows]
            # A layer that an example does not use has nothing of it. The check finds what none uses.
            zero = torch.zeros_like(parameter)
            found[name] = torch.stack([zero if g is None else g for g in gradients])
        return found


def alone(adapted: AdaptedModel, batch: Batch, loss: Loss) -> dict[str, torch.Tensor | None]:
    """Autograd's gradient of a batch's first example; None where a tensor takes no part in its loss."""
    found = torch.autograd.grad(loss(batch)[0], list(adapted.trained.values()), allow_unused=True)
    return dict(zip(adapted.trained, found, strict=True))


def losses(adapted: AdaptedModel, activations: Kept | None = None) -> Loss:
    """The loss that training lowers; ``activations`` are what the frozen layers made of the examples."""

    def loss(batch: Batch) -> torch.Tensor:
        batch = batch.to(adapted.device.torch)
        with activations.replay(batch) if activations else nullcontext(batch) as known:
            return adapted.forward(known).losses

    return loss


def added_up(gradients: object, batch: Batch) -> object:
    """What was found for each of a model's rows, [b · rows_an_example, …], added up over an example's.

    An example is one only if its rows are clipped as one: clipped each by itself, they would move a sum by
    as many clipping norms. What has other rows stays as it is, for ``of_examples`` to refuse.
    """
    together = batch.rows_an_example
    if together == 1 or not isinstance(gradients, torch.Tensor) or len(gradients) != len(batch) * together:
        return gradients
    return gradients.reshape(len(batch), together, *gradients.shape[1:]).sum(1)


def of_examples(name: str, gradients: object, batch: Batch, *, like: torch.Tensor) -> torch.Tensor:
    """Of what was found for each row of a batch, the gradients of its examples, each of ``like``'s shape.

    Zeros where nothing was found: a layer that no example of a batch uses has nothing of them. That some
    use it, and that what they say of it is found, the check makes sure of. Raises PrivacyUnitError for
    other rows than the batch has.
    """
    if gradients is None:
        return like.new_zeros((len(batch.indices), *like.shape))
    gradients = added_up(gradients, batch)
    if not isinstance(gradients, torch.Tensor) or len(gradients) != len(batch):
        rows = len(gradients) if isinstance(gradients, torch.Tensor) else "several"
        raise PrivacyUnitError(
            f"{name} got gradients for {rows} rows in a batch of {len(batch)} examples: its "
            "layer counts something else, such as tokens, as examples. "
            "Choose other adapter.target_modules"
        )
    return gradients[: len(batch.indices)].detach()
