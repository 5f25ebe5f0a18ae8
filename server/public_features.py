"""What a head's features are like on public texts: their mean and width, which the coordinator measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import JobError, ModelError
from protocol.job.layout import FEATURE_MEAN, FEATURE_SCALE
from protocol.plain_text import first_line
from tasks.data.tokenization import Reader, tokenize
from tasks.model.adapted_model import AdaptedModel

# With fewer texts than these a mean is off by more than a tenth of a width.
_LEAST = 100
# No coordinate is widened by more than so many times: one that hardly varies would be all rounding.
_WIDENED = 100.0
_BATCH = 64


def with_public_features(
    adapter: NDArray[np.float32], adapted: AdaptedModel, *, place: str
) -> NDArray[np.float32]:
    """An adapter, float32[adapter_size], whose head's features have mean 0 and one width on public texts.

    ``place`` is a file with a text a line, which no site needs to have. A coordinate x becomes (x - mean)
    · r / width, where r is the root mean square of all coordinates' standard deviations: features are as
    long, around their mean, as they were, so that learning rates stay what they are. A text's features are
    the mean of its tokens', where the head looks at each token. Nothing is read but the base model and
    these texts, which the job's author says are public. Raises JobError for a file that cannot be read or
    has too few texts, ModelError for a task on something else.
    """
    if not isinstance(adapted.base.reader, Reader):
        raise ModelError(f'model.features: expected none with task="{adapted.spec.task}", not on texts')
    found = adapted.layout.split(adapter.copy())
    adapted.load(adapter)
    for name, features in _features(adapted, _texts(place)).items():
        mean, width = features.mean(axis=0), features.std(axis=0)
        typical = float(np.sqrt(np.mean(np.square(width))))
        scale = typical / np.maximum(width, typical / _WIDENED) if typical else np.ones_like(width)
        found[name + FEATURE_MEAN] = mean.astype(np.float32)
        found[name + FEATURE_SCALE] = scale.astype(np.float32)
    return adapted.layout.join(found)


def _texts(place: str) -> list[str]:
    try:
        lines = Path(place).read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise JobError(f'model.features="{place}" cannot be read: {first_line(error)}') from error
    texts = [line for line in lines if line.strip()]
    if len(texts) < _LEAST:
        raise JobError(
            f'model.features="{place}": expected {_LEAST} public texts or more, one a line, got '
            f"{len(texts)}"
        )
    return texts


def _features(adapted: AdaptedModel, texts: list[str]) -> dict[str, NDArray[np.float64]]:
    """What each layer of the head is given for these texts: float64[texts, width], by its name."""
    examples = tokenize(adapted.base.reader, texts=texts, labels=None).examples
    read = examples.take(np.flatnonzero(examples.sizes))
    if len(read) < _LEAST:
        raise JobError(f"model.features: expected {_LEAST} texts that the model can read, got {len(read)}")
    found: dict[str, list[torch.Tensor]] = {name: [] for name in adapted.features.layers}
    handles, training = [], adapted.peft.training
    held: dict[str, torch.Tensor] = {}
    for name, layer in adapted.features.layers.items():

        def keep(_module: Any, args: tuple[Any, ...], _output: Any, name: str = name) -> None:
            held[name] = args[0].detach().float()

        handles.append(layer.register_forward_hook(keep))
    adapted.peft.eval()
    try:
        for batch in read.batches(np.arange(len(read)), rows=_BATCH):
            there = batch.to(adapted.device.torch)
            mask = there.inputs["attention_mask"]
            with torch.no_grad(), adapted.device.autocast():
                adapted.peft(input_ids=there.inputs["input_ids"], attention_mask=mask)
            for name, given in held.items():
                found[name].append(_of_texts(given, mask)[: len(batch.indices)].cpu())
    finally:
        adapted.peft.train(training)
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts).double().numpy() for name, parts in found.items()}


def _of_texts(given: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over each text's tokens, where there is one row a token: [b, width]."""
    if given.dim() == 2:
        return given
    weight = mask.unsqueeze(-1).to(given.dtype)
    return (given * weight).sum(1) / weight.sum(1)
