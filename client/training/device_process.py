"""What computes on another device of a site: a process with a copy of the model, and with some examples.

``python -m client.training.device_process`` reads from its standard input what it is for, and then, one
after another, examples, which it keeps, and parts of steps, each of which it answers with a clipped sum.
Frames are pickles: nobody can write there but the process that began this one. It ends when its input does,
and whatever goes wrong ends it: the one that asked says so, and this one's standard error says why.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from typing import BinaryIO

import torch

from client.training.gradient_check import choose_gradients
from client.training.gradients import losses
from client.training.step import nobody, whatever_fails
from client.training.step_part import Loaded, PartSum, Purpose, StepPart
from client.training.training import Trainer
from client.training.unit_check import check_privacy_unit
from privacy.mechanisms.clipping import ClippedSum
from protocol.processes.frames import read_frames, write_frame
from tasks.data.examples import Examples
from tasks.model.device import choose_device, without_subnormals
from tasks.model.frozen_prefix import Activations, FrozenPrefix


def sum_of_part(
    trainer: Trainer, examples: Examples, activations: Activations | None, part: StepPart
) -> ClippedSum:
    """The clipped sum of a part's examples, as ``Trainer.train`` would add them to its step's.

    It is as private as the examples: noise is for whoever adds up all parts. Raises PrivacyUnitError.
    """
    adapted = trainer.adapted
    adapted.train_in(part.round_number)
    shapes = trainer.shapes(part.training, activations)
    adapted.load(part.adapter)
    adapted.peft.train()
    if part.seed is not None:
        torch.manual_seed(part.seed)
    batches = trainer.batches(examples, part.indices, activations, shapes)
    loss = losses(adapted, activations)
    total = part.clipping.of(list(nobody(adapted).values()))
    for batch in batches:
        gradients = whatever_fails(trainer.gradients, batch, loss)
        total = total.joined(part.clipping.of(list(gradients.values())))
    return total


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until nobody asks. Raises what goes wrong: then nothing more is answered."""
    frames = map(pickle.loads, read_frames(requests))
    purpose: Purpose = next(frames)
    adapted = purpose.recipe.make(choose_device(purpose.device))
    trainer = Trainer(choose_gradients(adapted))
    # What was proven of another device's arithmetic is not proven of this one's.
    check_privacy_unit(trainer.gradients, adapted.probe())
    prefix = FrozenPrefix(adapted)
    size = adapted.layout.adapter_size
    write_frame(answers, pickle.dumps(Loaded(model_digest=adapted.model_digest, adapter_size=size)))
    examples: Examples | None = None
    activations: Activations | None = None
    for asked in frames:
        if isinstance(asked, StepPart) and examples is not None:
            found = sum_of_part(trainer, examples, activations, asked)
            write_frame(answers, pickle.dumps(PartSum.of(found)))
        else:
            examples = asked
            kept = Activations(prefix, asked)
            activations = kept if kept.work else None


def main() -> None:
    """Serve on standard input and output."""
    from protocol.processes.json_log import PlainFormatter

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter())
    logging.getLogger("confide").addHandler(handler)
    with without_subnormals():
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
