"""Routed experts' pairs as PEFT has them: all experts of a weight in one A and one B."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from protocol.job.layout import FUSED

_PAIR = re.compile(rf"^(.+)\.({'|'.join(FUSED)})\.(\d+)\.(lora_[AB])\.weight$")

Tensors = Mapping[str, NDArray[np.float32]]


def with_fused_experts(tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    """An adapter's tensors, those of single experts put together as PEFT's ``target_parameters`` has them.

    A is [experts · rank, in], one expert under another. B is [out, rank · experts], the experts next to one
    another in each of the ranks. Of two weights of a module the first is wrapped first: it is PEFT's
    ``base_layer``.
    """
    found = dict[str, NDArray[np.float32]]()
    parts: dict[tuple[str, str], dict[str, dict[int, NDArray[np.float32]]]] = {}
    for name, tensor in tensors.items():
        pair = _PAIR.match(name)
        if pair is None:
            found[name] = tensor
        else:
            module, weight, expert, half = pair.groups()
            parts.setdefault((module, half), {}).setdefault(weight, {})[int(expert)] = tensor
    for (module, half), weights in parts.items():
        wrapped = [weight for weight in FUSED if weight in weights]
        for depth, weight in enumerate(reversed(wrapped)):
            experts = weights[weight]
            stacked = np.stack([experts[number] for number in range(len(experts))])
            if half == "lora_A":
                whole = stacked.reshape(-1, stacked.shape[2])
            else:
                whole = stacked.transpose(1, 2, 0).reshape(stacked.shape[1], -1)
            found[f"{module}{'.base_layer' * depth}.{half}.weight"] = whole
    return found
