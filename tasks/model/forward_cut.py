"""Where a forward pass is cut in two: below is what never changes, and what crosses the cut is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import nn

from privacy.errors import RunError
from tasks.model.model_layers import LayerList

_MISSING = object()


class _CapturedError(Exception):
    """Ends a forward pass once what crosses the cut is known; never leaves this module."""


class ForwardCut(Protocol):
    """A place in a model: ``depth`` of its layers lie below."""

    @property
    def depth(self) -> int: ...

    @property
    def reads_inputs(self) -> bool:
        """Whether a pass that starts here looks at the model's inputs."""

    def below(self, run: Callable[[], object]) -> torch.Tensor:
        """What crosses the cut in a forward pass that ``run`` makes: [b, t, width].

        Raises RunError if nothing does.
        """

    @contextmanager
    def above(self, hidden: torch.Tensor) -> Iterator[None]:
        """Within this block a forward pass starts from what ``below`` found."""

    def stir(self) -> None:
        """Give what is above numbers that do not hide what crosses, where those at rest would."""

    def outcome(self, run: Callable[[], object]) -> torch.Tensor:
        """What comes out above, in the last pass that ``run`` makes: [b, t, …] on the model's device."""


class LayerCut:
    """Before one layer of a model's list, which is called with the hidden states of the one below it.

    What comes out above is what the last layer gives, or what a ``head`` reads.
    """

    def __init__(self, found: LayerList, depth: int, *, head: nn.Module | None = None) -> None:
        self._list, self.depth, self._head = found, depth, head
        self._upper = nn.ModuleList(found.layers[depth:])

    @property
    def reads_inputs(self) -> bool:
        """Masks are made of them, and what lies under the layers still runs."""
        return True

    def below(self, run: Callable[[], object]) -> torch.Tensor:
        return _captured(self._upper[0], run)

    @contextmanager
    def above(self, hidden: torch.Tensor) -> Iterator[None]:
        def substitute(
            _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        handle = self._upper[0].register_forward_pre_hook(substitute, with_kwargs=True)
        setattr(self._list.owner, self._list.attribute, self._upper)
        try:
            yield
        finally:
            setattr(self._list.owner, self._list.attribute, self._list.layers)
            handle.remove()

    def stir(self) -> None:
        """Nothing: layers with an adapter at rest compute what the model does."""

    def outcome(self, run: Callable[[], object]) -> torch.Tensor:
        if self._head is not None:
            return _in_rows(_captured(self._head, run))
        held: list[torch.Tensor] = []

        def capture(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            held.append(output if isinstance(output, torch.Tensor) else output[0])

        handle = self._upper[-1].register_forward_hook(capture)
        try:
            run()
        finally:
            handle.remove()
        return held[-1]


class HeadCut:
    """Under the only layer that is trained, the ``head``, where it is the last of a classifier.

    So a whole trunk is computed once an example, whatever its layers give to one another.
    """

    def __init__(self, model: nn.Module, head: str, *, depth: int) -> None:
        self._model, self._head, self.depth = model, model.get_submodule(head), depth
        self._pooled = False  # whether the head reads one row of numbers an example

    @property
    def reads_inputs(self) -> bool:
        """Nothing but the head runs."""
        return False

    def below(self, run: Callable[[], object]) -> torch.Tensor:
        found = _captured(self._head, run)
        self._pooled = found.ndim == 2
        return _in_rows(found)

    @contextmanager
    def above(self, hidden: torch.Tensor) -> Iterator[None]:
        def forward(*_args: Any, **_kwargs: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=self._head(hidden[:, 0] if self._pooled else hidden))

        with _instead(self._model, forward):
            yield

    def stir(self) -> None:
        """Numbers of both signs in the head, which would give zeros for anything."""
        for parameter in self._head.parameters():
            if parameter.requires_grad:
                numbers = torch.linspace(-1, 1, parameter.numel(), device=parameter.device)
                parameter.copy_(numbers.reshape(parameter.shape))

    def outcome(self, run: Callable[[], object]) -> torch.Tensor:
        held: list[torch.Tensor] = []
        forward: Callable[..., Any] = self._model.forward

        def noted(*args: Any, **kwargs: Any) -> Any:
            found = forward(*args, **kwargs)
            held.append(getattr(found, "logits", found))
            return found

        with _instead(self._model, noted):
            run()
        return _in_rows(held[-1])


def _in_rows(found: torch.Tensor) -> torch.Tensor:
    """[b, width] as [b, 1, width]; what has a row for each place in an example as it is."""
    return found[:, None] if found.ndim == 2 else found


def _captured(module: nn.Module, run: Callable[[], object]) -> torch.Tensor:
    """What a module is first called with in a pass, which ends there."""
    held: list[torch.Tensor] = []

    def capture(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        held.append(args[0] if args else kwargs["hidden_states"])
        raise _CapturedError

    handle = module.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        with torch.no_grad():
            run()
    except _CapturedError:
        return held[0].detach()
    finally:
        handle.remove()
    raise RunError("the model's forward pass did not reach what is trained of it")


@contextmanager
def _instead(model: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within this block the model computes this; after it, what it did before."""
    own = vars(model).get("forward", _MISSING)
    model.forward = forward
    try:
        yield
    finally:
        if own is _MISSING:
            del model.forward
        else:
            model.forward = own  # a function, if a library put one there
