"""An adapter with residuals as one without, for programs that know of B·A alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from protocol.job.layout import FACTOR_A, FACTOR_B, RESIDUAL

_PREFIX = "base_model.model."


def factor_residuals(adapter: Path) -> None:
    """Rewrite a PEFT folder so that each layer's B·A is what its residual and its B·A were together.

    Each layer gets the rank that this takes, which grows with the rounds up to that of a whole layer, and
    is scaled as before. A folder without residuals stays as it is.
    """
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    layers = [name.removesuffix(RESIDUAL) for name in tensors if name.endswith(RESIDUAL)]
    if not layers:
        return
    config = adapter / "adapter_config.json"
    table: dict[str, Any] = json.loads(config.read_text("utf-8"))
    scale = table["lora_alpha"] / (math.sqrt(table["r"]) if table.get("use_rslora") else table["r"])
    ranks, alphas = {}, {}
    for layer in layers:
        b, a = tensors[layer + FACTOR_B].astype(np.float64), tensors[layer + FACTOR_A].astype(np.float64)
        new_b, new_a = _factors(tensors.pop(layer + RESIDUAL) + b @ a)
        tensors[layer + FACTOR_B], tensors[layer + FACTOR_A] = new_b, new_a
        # PEFT takes a layer's own rank and alpha by its name in the base model.
        ranks[layer.removeprefix(_PREFIX)] = len(new_a)
        alphas[layer.removeprefix(_PREFIX)] = scale * len(new_a)
    table |= {"rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": False}
    config.write_text(json.dumps(table), "utf-8")
    save_file(tensors, weights, metadata={"format": "pt"})


def _factors(product: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """B, float32[out, rank], and A, float32[rank, in], of the least rank for a product, one at least."""
    u, singular, vt = np.linalg.svd(product, full_matrices=False)
    # The residual is rounded to float32: of what that leaves no direction is longer.
    rounding = 2.0**-23 * math.sqrt(max(product.shape)) * singular[0]
    rank = max(1, int((singular > rounding).sum()))
    root = np.sqrt(singular[:rank])
    b, a = u[:, :rank] * root, root[:, None] * vt[:rank]
    return np.ascontiguousarray(b, np.float32), np.ascontiguousarray(a, np.float32)
