"""What an attacker can compute of any text: it has the model, its tokenizer and the adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from privacy.errors import RunError, UserError
from simulation.simulated_federation import World
from tasks.data.examples import offsets_of
from tasks.data.token_examples import TokenExamples

_ROWS = 256
_PEFT = "base_model.model."


class _ReachedError(Exception):
    """Ends a forward pass once a layer's input is known; never leaves this module."""


class ReadableTexts:
    """A world's model as an attacker runs it on texts that it makes up of the ``vocabulary``.

    ``vocabulary`` is int64[v]: all tokens but the special ones. ``most`` is how many of them a text has.
    Raises UserError for a task that is not on texts.
    """

    def __init__(self, world: World) -> None:
        self._adapted = world.adapted
        reader = self._adapted.base.reader
        tokenizer: Any = getattr(reader, "tokenizer", None)
        if tokenizer is None or not isinstance(world.held_out, TokenExamples):
            raise UserError(f'expected a task on texts, got task="{world.job.task}": its tokens are sought')
        self.special = frozenset(int(token) for token in tokenizer.all_special_ids)
        known = np.array([t for t in range(reader.tokens) if t not in self.special], np.int64)
        self.vocabulary = known
        around = [int(token) for token in tokenizer("")["input_ids"]]
        ends = len(around) == 1 and around[0] == tokenizer.eos_token_id
        self._first, self._last = ([], around) if ends else (around[:1], around[1:])
        self.most = reader.max_length - len(around)
        self._padding = int(reader.padding)
        self._labelled = bool(self._adapted.base.head)

    def bare(self, tokens: NDArray[np.int32]) -> frozenset[int]:
        """The different tokens of a text, without the special ones."""
        return frozenset(map(int, tokens)) - self.special

    def written(self, tokens: Sequence[int]) -> list[int]:
        """A text of these tokens as the model reads it, with what the tokenizer puts around it."""
        return [*self._first, *tokens, *self._last]

    def inputs_of(self, module: str, texts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """What a module reads of texts, given with all their tokens: a batch's [b, t, width] or [b, width].

        ``module`` is named as in the base model. No adapter is loaded here. Raises RunError if it is never
        reached.
        """
        found = self._adapted.peft.get_base_model().get_submodule(module)
        for start in range(0, len(texts), _ROWS):
            yield self._input(found, texts[start : start + _ROWS])

    def pooled(self, module: str, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The same, float32[n, width], a row a text: where a module reads each token, their mean."""
        parts = []
        for start in range(0, len(texts), _ROWS):
            some = texts[start : start + _ROWS]
            (found,) = self.inputs_of(module, some)
            if found.dim() == 3:
                lengths = torch.tensor([len(text) for text in some], device=found.device)
                mask = (torch.arange(found.shape[1], device=found.device) < lengths[:, None])[..., None]
                found = (found * mask).sum(1) / lengths[:, None]
            parts.append(found.float().cpu().numpy())
        return np.concatenate(parts)

    def _input(self, module: nn.Module, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        examples = TokenExamples(
            tokens=np.array([token for text in texts for token in text], np.int32),
            offsets=offsets_of(np.array([len(text) for text in texts], np.int64)),
            labels=np.zeros(len(texts), np.int64) if self._labelled else None,
            padding=self._padding,
        )
        batch = examples.batch(np.arange(len(texts))).to(self._adapted.device.torch)
        with _captured(module) as held, torch.no_grad():
            try:
                self._adapted.forward(batch)
            except _ReachedError:
                return held[0].detach()
        raise RunError("the model's forward pass did not reach the layer that is attacked")


@contextmanager
def _captured(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    held: list[torch.Tensor] = []

    def capture(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        held.append(args[0] if args else next(iter(kwargs.values())))
        raise _ReachedError

    handle = module.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        yield held
    finally:
        handle.remove()


def module_of(tensor: str) -> str:
    """The module of the base model that a tensor of the layout belongs to."""
    layer = tensor.removeprefix(_PEFT)
    for part in (".lora_A.", ".lora_B."):
        layer = layer.partition(part)[0]
    return layer.removesuffix(".weight")
