"""Where a run begins if it does not begin anew: an adapter that was made elsewhere, as a PEFT folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import JobError
from protocol.job.layout import FACTOR_A, FACTOR_B
from protocol.plain_text import first_line, some
from runs.peft_form import peft_config
from tasks.model.adapted_model import AdaptedModel

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What makes s · B · A of a pair: PEFT's keys, what PEFT takes where one is left out, and the job's keys.
_SCALES: Mapping[str, tuple[Any, str]] = {
    "r": (8, "adapter.rank"),
    "lora_alpha": (8, "adapter.alpha"),
    "use_rslora": (False, "adapter.scaling"),
    "rank_pattern": ({}, "adapter.rank_pattern"),
    "alpha_pattern": ({}, "adapter.alpha_pattern"),
}
_PREFIX = "base_model.model."

Tensors = Mapping[str, NDArray[np.float32]]


def read_warm_start(place: str, adapted: AdaptedModel, *, seed: int) -> NDArray[np.float32]:
    """The adapter in a PEFT folder as the job's own, float32[adapter_size].

    All pairs of the job must be there, at its ranks and scale, and no others. A head or a bias that is not
    there begins as it would without. Layers that the checkpoint lacks, which an export has beside its
    adapter, must be those of the job's base model. Raises JobError in a sentence that says what does not
    fit.
    """
    tensors = _read(Path(place), place)
    if adapted.layout.pairs:
        _check_scales(_config(Path(place), place), adapted, place)
    known = {slot.name: slot.shape for slot in adapted.layout.slots}
    _check_pairs(tensors.keys(), known.keys(), place)
    _check_beside({name: t for name, t in tensors.items() if name not in known}, adapted, place)
    found = adapted.layout.split(adapted.initial_adapter(seed).copy())
    for name, tensor in tensors.items():
        if name not in known:
            continue
        if tensor.shape != known[name]:
            raise _misfit(place, f"{name} has shape {tensor.shape} there and {known[name]} in this job")
        if not np.isfinite(tensor).all():
            raise _misfit(place, f"{name} is not finite")
        found[name] = tensor
    return adapted.layout.join(found)


def _read(folder: Path, place: str) -> Tensors:
    """All tensors of a PEFT folder, in whatever precision they are there."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: t.float().numpy() for name, t in load_file(folder / _WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise _misfit(place, f"its {_WEIGHTS} cannot be read ({first_line(error)})") from error


def _config(folder: Path, place: str) -> Mapping[str, Any]:
    try:
        return dict(json.loads((folder / _CONFIG).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _misfit(place, f"its {_CONFIG} cannot be read ({first_line(error)})") from error


def _check_scales(theirs: Mapping[str, Any], adapted: AdaptedModel, place: str) -> None:
    """Raises JobError unless a pair there is worth what it is in this job."""
    if theirs.get("peft_type") != "LORA" or theirs.get("use_dora"):
        raise _misfit(place, "it is no plain LoRA, and this job trains nothing else")
    ours = peft_config(adapted.peft.peft_config["default"].to_dict(), adapted.spec.adapter)
    for name, (unsaid, key) in _SCALES.items():
        there, here = (table.get(name) or unsaid for table in (theirs, ours))
        if there != here:
            raise _misfit(place, f"it was made with {name}={there}, and {key} makes it {here} here")


def _check_pairs(theirs: Iterable[str], ours: Iterable[str], place: str) -> None:
    """Raises JobError unless the same layers carry pairs."""
    there, here = ({n for n in names if n.endswith((FACTOR_A, FACTOR_B))} for names in (theirs, ours))
    if here - there:
        raise _misfit(
            place, f"it lacks {some(sorted(here - there))}, which adapter.target_modules asks for"
        )
    if there - here:
        raise _misfit(place, f"it has {some(sorted(there - here))}, which this job does not train")


def _check_beside(beside: Tensors, adapted: AdaptedModel, place: str) -> None:
    """Raises JobError for a tensor that the job does not train and that is another in its base model."""
    weights = adapted.peft.get_base_model().state_dict() if beside else {}
    for name, tensor in beside.items():
        own = weights.get(name.removeprefix(_PREFIX))
        if own is None or not np.array_equal(own.float().cpu().numpy(), tensor):
            raise _misfit(
                place,
                f"it has {name}, which this job does not train, and not as the base model has it: take "
                "adapter.bias, model.head and seeds.adapter from the job that it came from",
            )


def _misfit(place: str, why: str) -> JobError:
    return JobError(f'training.warm_start="{place}" does not fit this job: {why}')
