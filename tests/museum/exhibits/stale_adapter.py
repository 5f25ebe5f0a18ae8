"""An adapter that the optimizer holds and the model does not use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from client.training.gradients import OneByOne, losses
from client.training.unit_check import check_privacy_unit
from privacy.errors import PrivacyUnitError
from tasks.model.adapted_model import AdaptedModel
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import LLAMA, claim, unit_check

_STEPS = 3


def replace_parameters(adapted: AdaptedModel) -> dict[str, nn.Parameter]:
    """Put copies in the places of the adapter's tensors, as a model does that is moved later."""
    copies = {}
    for name, parameter in list(adapted.peft.named_parameters()):
        if parameter.requires_grad:
            layer, _, leaf = name.rpartition(".")
            copies[name] = nn.Parameter(parameter.detach().clone())
            setattr(adapted.peft.get_submodule(layer), leaf, copies[name])
    return copies


def show(_place: Path) -> Shown:
    adapted = LLAMA.adapted()
    used = replace_parameters(adapted)
    before = {name: parameter.detach().clone() for name, parameter in used.items()}
    optimizer = torch.optim.SGD(list(adapted.trained.values()), lr=1.0)
    batch = LLAMA.examples().batch(np.arange(4))
    for _ in range(_STEPS):
        losses(adapted)(batch).mean().backward()
        optimizer.step()
    moved = max(float((used[name].detach() - before[name]).abs().max()) for name in used)
    refusal = ""
    try:
        check_privacy_unit(OneByOne(adapted), LLAMA.examples())
    except PrivacyUnitError as error:
        refusal = str(error)
    return Shown(
        flagged=moved == 0.0 and "neither clipped nor noised" in refusal,
        control=unit_check() is not None,
        figures={"moved": f"{moved:.1f}", "spent": f"{claim().epsilon_after(_STEPS):.2f}"},
    )


EXHIBIT = Exhibit(
    title="An adapter that never moves",
    threads=(
        Thread(name="opacus#820", url="https://github.com/meta-pytorch/opacus/issues/820"),
        Thread(name="peft#3409", url="https://github.com/huggingface/peft/issues/3409"),
    ),
    shipped=(
        "With a newer PEFT, and the model moved to its device after it was wrapped, hooks and optimizer "
        "held tensors that the model did not use any more. The reporter trained six models over some 45 "
        "GPU hours before one was looked at."
    ),
    seen=(
        "a loss that falls, checkpoints, and an ε that adds up: ε = {spent} after three steps here, in "
        "which the largest change of any weight that the model uses is {moved}."
    ),
    says=(
        "the unit check refuses: the tensors that the model uses are trainable and not in the adapter's "
        "layout, so their gradients would be neither clipped nor noised."
    ),
    here=(
        "a site compares what is trained with what the job asks for by name and with what the optimizer "
        "holds ([`unit_check.py`](../client/training/unit_check.py)), the model is on its device before "
        "PEFT sees it, or is put there tensor by tensor, each staying the object that it was, and versions "
        "are pinned."
    ),
    found_by="the unit check",
    show=show,
)
