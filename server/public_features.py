"""What a head's features are like on public examples: their mean and width, as the coordinator measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import DataError, JobError, ModelError
from protocol.job.job import Job
from protocol.job.layout import FEATURE_MEAN, FEATURE_SCALE
from protocol.plain_text import first_line
from tasks.data.examples import Examples
from tasks.data.package_path import locate
from tasks.data.rows import Rows
from tasks.data.tokenization import Reader, tokenize
from tasks.model.adapted_model import AdaptedModel
from tasks.registry import find_task
from tasks.task import PublicFilesTask, Task

# With fewer texts than these a mean is off by more than a tenth of a width.
_LEAST = 100
# No coordinate is widened by more than so many times: one that hardly varies would be all rounding.
_WIDENED = 100.0
_BATCH = 64
# More of the public examples than this are not among the job's own.
_SHARED = 0.1


def with_public_features(
    adapter: NDArray[np.float32], adapted: AdaptedModel, *, place: str
) -> NDArray[np.float32]:
    """An adapter, float32[adapter_size], whose head's features have mean 0 and one width on public data.

    ``place`` is a file with a text a line, or a folder of files such as the task reads, which no site needs
    to have. A coordinate x becomes (x - mean) · r / width, where r is the root mean square of all
    coordinates' standard deviations: features are as long, around their mean, as they were, so that
    learning rates stay what they are. A text's features are the mean of its tokens', where the head looks
    at each token. Nothing is read but the base model and what is there, which the job's author says is
    public. Raises JobError for what cannot be read or has too few examples, ModelError for a task whose
    examples are neither texts nor files, and where the model makes no finite numbers of them.
    """
    found = adapted.layout.split(adapter.copy())
    adapted.load(adapter)
    for name, features in _features(adapted, _examples(adapted, place)).items():
        if not np.isfinite(features).all():
            raise ModelError(f'model.features="{place}": the model makes numbers of it that are not finite')
        mean, width = features.mean(axis=0), features.std(axis=0)
        typical = float(np.sqrt(np.mean(np.square(width))))
        scale = typical / np.maximum(width, typical / _WIDENED) if typical else np.ones_like(width)
        found[name + FEATURE_MEAN] = mean.astype(np.float32)
        found[name + FEATURE_SCALE] = scale.astype(np.float32)
    return adapted.layout.join(found)


def _texts(place: str) -> list[str]:
    try:
        lines = Path(locate(place)).read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise JobError(f'model.features="{place}" cannot be read: {first_line(error)}') from error
    texts = [line for line in lines if line.strip()]
    if len(texts) < _LEAST:
        raise JobError(
            f'model.features="{place}": expected {_LEAST} public texts or more, one a line, got '
            f"{len(texts)}"
        )
    return texts


def _examples(adapted: AdaptedModel, place: str) -> Examples:
    """The public examples at a place that the model can read."""
    reader, task = adapted.base.reader, find_task(adapted.spec.task)
    if isinstance(reader, Reader):
        examples: Examples = tokenize(reader, texts=_texts(place), labels=None).examples
    else:
        contents, labels = _files(task, place), ("",) if task.labelled else ()
        rows = Rows(contents=contents, labels=labels * len(contents) if labels else None)
        examples = task.encode(reader, rows, labels=labels).examples
    read = examples.take(np.flatnonzero(examples.sizes))
    if len(read) < _LEAST:
        raise JobError(
            f'model.features="{place}": expected {_LEAST} public examples that the model can read, got '
            f"{len(read)}"
        )
    return read


def _files(task: Task, place: str) -> tuple[Any, ...]:
    if not isinstance(task, PublicFilesTask):
        raise ModelError(
            f'model.features: expected none with task="{task.name}", whose examples are neither texts nor '
            "files of their own"
        )
    try:
        return task.read_public(Path(locate(place)))
    except DataError as error:
        raise JobError(f"model.features: {error}") from error


def check_public(job: Job, parts: Iterable[Rows]) -> None:
    """Raises JobError where public examples are the job's own: their mean would leave without noise.

    A table's paths, links and copies are seen through: what counts is what examples are known by. A few
    that are in both may well be public.
    """
    task, place = find_task(job.task), job.model.features
    if place is None:
        return
    public: Sequence[Any] = _files(task, place) if isinstance(task, PublicFilesTask) else _texts(place)
    own = {task.digest(content) for rows in parts for content in rows.contents}
    both = sum(task.digest(one) in own for one in public)
    if both > _SHARED * len(public):
        raise JobError(
            f'model.features="{place}": expected public data, got {both} of {len(public)} examples that '
            "are among the job's own: what is measured there is published without noise"
        )


def _features(adapted: AdaptedModel, read: Examples) -> dict[str, NDArray[np.float64]]:
    """What each layer of the head is given for these examples: float64[n, width], by its name."""
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
            mask = there.inputs.get("attention_mask")
            with torch.no_grad(), adapted.device.autocast():
                if mask is None:
                    find_task(adapted.spec.task).forward(adapted, there)
                else:
                    adapted.peft(input_ids=there.inputs["input_ids"], attention_mask=mask)
            for name, given in held.items():
                rows = _of_examples(given, mask)[:: batch.rows_an_example]  # of an image, it as it is
                found[name].append(rows[: len(batch.indices)].cpu())
    finally:
        adapted.peft.train(training)
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts).double().numpy() for name, parts in found.items()}


def _of_examples(given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The mean over each text's tokens, where there is one row a token: [b, width]."""
    if given.dim() == 2:
        return given
    if mask is None:
        return given.flatten(1, -2).mean(1)
    weight = mask.unsqueeze(-1).to(given.dtype)
    return (given * weight).sum(1) / weight.sum(1)
