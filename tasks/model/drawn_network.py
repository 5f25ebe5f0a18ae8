"""A network of a task's own, where no model was trained before: drawn from a seed and trained whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from privacy.canonical import canonical_json
from protocol.processes.time_spent import Part, timed
from tasks.model.base_model import BaseModel
from tasks.model.drawn_weights import DrawnWeights
from tasks.model.model_digest import model_digest

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@timed(Part.MODEL)
def load_drawn(
    network: Callable[[], nn.Module], *, seed: int, last: str, reads: Mapping[str, Any], reader: Any
) -> BaseModel:
    """The network that a task makes, with weights that are the same at every site.

    Weights are uniform with the variance 2 / inputs, with which rectifiers pass on what is as long as it
    was. Biases are zero, and so is the layer named ``last``: every site starts from one answer.
    ``reads`` says what its inputs mean, and is in the digest beside weights and what it is ``made_of``.

    Source: He et al. 2015 (arXiv:1502.01852), equation 10.
    """
    with DrawnWeights(seed):
        model: Any = network()
        for name, module in model.named_modules():
            if not isinstance(module, _LAYERS):
                continue
            if name == last:
                nn.init.zeros_(module.weight)
            else:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    # The layers by their names: PEFT saves whole what is named so.
    head = tuple(
        name
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    )
    return BaseModel(
        model=model.requires_grad_(False),
        digest=model_digest(
            model, config=canonical_json({"made_of": model.made_of, "reads": reads}), tokenizer=b""
        ),
        reader=reader,
        head=head,
        peft_type=None,
        limit=None,
        remarks=(f"The network is drawn from seeds.adapter = {seed}, and all of it is trained.",),
    )
