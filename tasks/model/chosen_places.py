"""A language model's last layer, with a number for each word, computed at chosen places alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tasks.model.adapted_model import AdaptedModel


@contextmanager
def only_at(adapted: AdaptedModel, places: torch.Tensor | None) -> Iterator[None]:
    """Within this block the model's last layer sees these places of each row, [rows, k]; None: all."""
    if places is None:
        yield
        return

    def choose(_layer: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = given[0]
        chosen = places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, chosen), *given[1:])

    handle = adapted.peft.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
