"""An adapter on disk, as stock PEFT loads it onto the base model that everyone has: pairs, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from protocol.job.adapter_section import AdapterSection
from protocol.job.folded_features import folded
from runs.peft_experts import with_fused_experts

# Beside PEFT's file: the tensors that are trained, where PEFT's are others.
TRAINED = "trained.safetensors"
_WEIGHTS = "adapter_model.safetensors"

Tensors = Mapping[str, NDArray[np.float32]]


def save_tensors(folder: Path, tensors: Tensors, *, begun: Tensors | None) -> None:
    """Write an adapter's tensors into a folder; ``begun`` is as ``peft_tensors`` has it."""
    saved = peft_tensors(tensors, begun=begun)
    _save(saved, folder / _WEIGHTS)
    if any(saved.get(name) is not tensor for name, tensor in tensors.items()):
        _save(tensors, folder / TRAINED)


def load_tensors(folder: Path) -> Tensors:
    """The tensors that were written, as they were. Raises FileNotFoundError."""
    trained = folder / TRAINED
    found: Tensors = load_file(trained if trained.exists() else folder / _WEIGHTS)
    return found


def peft_tensors(tensors: Tensors, *, begun: Tensors | None) -> dict[str, NDArray[np.float32]]:
    """The tensors of an adapter by the names that PEFT has for them.

    A core is multiplied into B: [m, r] · [r, r]. Where the adapter had ``begun`` as a part of the base
    model's weights, which was taken out of those, that part is subtracted here: s · (B · A - B0 · A0) is
    one product, of [B, B0] and [A, -A0], at twice the rank. Routed experts' pairs are put together, and a
    head has in its weights what its features were centred and scaled by.
    """
    found = {name: tensor for name, tensor in tensors.items() if ".lora_C." not in name}
    for name, core in tensors.items():
        if ".lora_C." in name:
            last = name.replace(".lora_C.", ".lora_B.")
            product = tensors[last].astype(np.float64) @ core.astype(np.float64)
            found[last] = product.astype(np.float32)
    for name, start in (begun or {}).items():
        if ".lora_A." in name:
            found[name] = np.concatenate([found[name], -start], axis=0)
        elif ".lora_B." in name:
            found[name] = np.concatenate([found[name], start], axis=1)
    return with_fused_experts(folded(found))


def peft_config(config: Mapping[str, Any], adapter: AdapterSection) -> dict[str, Any]:
    """PEFT's description of an adapter that is saved so: ``config`` is that of the one that is trained."""
    table = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    table["inference_mode"] = True
    if not adapter.changes_base:
        return table
    # Twice the rank at the same scale, which is alpha / rank or alpha / √rank.
    more = 2.0 if adapter.scaling == "lora" else 2.0**0.5
    return table | {
        "r": 2 * adapter.rank,
        "lora_alpha": more * adapter.alpha,
        "rank_pattern": {end: 2 * rank for end, rank in adapter.rank_pattern.items()},
        "alpha_pattern": {end: more * alpha for end, alpha in adapter.alpha_pattern.items()},
    }


def _save(tensors: Tensors, path: Path) -> None:
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})
