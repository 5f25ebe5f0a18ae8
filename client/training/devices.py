"""A local step on several devices of a site: each clips its own examples, and one adds the noise.

Which device computes an example follows from its place in the data alone: device r of k has the examples
r, r + k, r + 2k, … Devices may round differently, and so an example's part in a sum would depend on the
others drawn if it were dealt out anew in each step.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, BinaryIO, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.optimizer import Clipping
from client.training.recipe import Recipe
from client.training.step_part import Loaded, PartSum, Purpose, StepPart
from privacy.errors import RunError
from privacy.mechanisms.clipping import ClippedSum
from privacy.mechanisms.rng import NoiseSource
from protocol.job.job import DeviceSection
from protocol.job.training_section import TrainingSection
from protocol.processes import tether
from protocol.processes.exit_code import how_it_ended
from protocol.processes.frames import read_frame, write_frame
from protocol.processes.time_spent import Part, timed
from tasks.data.examples import Examples
from tasks.model.adapted_model import AdaptedModel

log = logging.getLogger("confide.training")

# The examples that this process computes itself, and a way to the clipped sums of the others.
Shared = tuple[NDArray[np.int64], Callable[[], Iterable[ClippedSum]]]


class Devices(Protocol):
    """Where a site's local steps are computed."""

    def ready(self, examples: Examples) -> None:
        """See that each device can be asked for its part of these examples. Raises RunError."""
        ...

    def share(
        self,
        indices: NDArray[np.int64],
        *,
        round_number: int,
        training: TrainingSection,
        clipping: Clipping,
        dropout: NoiseSource | None,
    ) -> AbstractContextManager[Shared]:
        """Within this block the other devices are at work on their part of a step's examples.

        The step is that of the adapter that is loaded. To ask for the others' sums raises RunError if one
        of them is lost.
        """
        ...

    def end(self) -> None:
        """Free the other devices."""
        ...


class OneDevice:
    """This process's own device, and no other."""

    def ready(self, examples: Examples) -> None:
        """It always is."""

    @contextmanager
    def share(self, indices: NDArray[np.int64], **_step: object) -> Iterator[Shared]:
        """All examples are this process's."""
        yield indices, tuple

    def end(self) -> None:
        """There is none."""


class SeveralDevices:
    """The device of ``adapted``, in this process, and ``others``, each with a process of its own.

    Guarantee: a step releases what one device's would, and is charged as that is. An example is clipped as
    a whole by the one process that has it, by the rule that the step's own optimizer gives; sums are of
    integers, and so exact; a sum without noise goes from another process to this one alone; and the step's
    noise is drawn here, once, for the sum of all parts. Plan, ledger and Poisson sample are here alone.

    A process that ends takes the step with it, before there is noise: what was charged for the round stays
    charged. Others are begun in their place when the next round is. Used on one thread: on Linux the
    processes end with it, however it ends.
    """

    def __init__(self, recipe: Recipe, others: Sequence[str], *, adapted: AdaptedModel) -> None:
        self._recipe, self._names, self._adapted = recipe, tuple(others), adapted
        self._processes: list[_Process] = []
        self._examples: Examples | None = None

    def ready(self, examples: Examples) -> None:
        """Begin the processes if they are not there, and give them their examples if they have others."""
        gone = [process.device for process in self._processes if not process.alive]
        if gone:
            log.warning("the processes on the other devices are begun anew: lost %s", ", ".join(gone))
            self.end()
        try:
            if not self._processes:
                self._begin()
            if self._examples is not examples:
                count = 1 + len(self._names)
                for rank, process in enumerate(self._processes, start=1):
                    process.send(examples.take(np.arange(rank, len(examples), count)))
                self._examples = examples
        except BaseException:
            self.end()
            raise

    def _begin(self) -> None:
        """Load the model on each of the other devices, on all at once."""
        # A model that two devices computed in different precisions would be two models.
        precision: Literal["bfloat16", "float32"]
        precision = "bfloat16" if self._adapted.device.bfloat16 else "float32"
        threads, offload = torch.get_num_threads(), self._adapted.device.offload
        for name in self._names:
            section = DeviceSection(name=name, precision=precision, threads=threads, offload=offload)
            self._processes.append(_Process(self._recipe, section))
        for process in self._processes:
            found: Loaded = process.receive()
            here = self._adapted.model_digest, self._adapted.layout.adapter_size
            if (found.model_digest, found.adapter_size) != here:
                raise RunError(
                    f"the process on {process.device} has loaded another model than this one: its files "
                    "changed in between; start the site anew"
                )
        log.info("one process each on %s has loaded the model", ", ".join(self._names))

    @contextmanager
    def share(
        self,
        indices: NDArray[np.int64],
        *,
        round_number: int,
        training: TrainingSection,
        clipping: Clipping,
        dropout: NoiseSource | None,
    ) -> Iterator[Shared]:
        """See ``Devices.share``; to be ``ready`` comes first."""
        count, adapter = 1 + len(self._names), self._adapted.now()
        if len(self._processes) < count - 1:
            raise RunError("the site's other devices have no processes: see that they are ready first")
        try:
            for rank, process in enumerate(self._processes, start=1):
                process.send(
                    StepPart(
                        round_number=round_number,
                        training=training,
                        adapter=adapter,
                        indices=indices[indices % count == rank] // count,
                        clipping=clipping,
                        seed=None if dropout is None else dropout.seed(),
                    )
                )
            yield indices[indices % count == 0], lambda: self._sums(clipping)
        except BaseException:
            # What they still compute would be taken for the next step's.
            self.end()
            raise

    @timed(Part.WAITING)
    def _sums(self, clipping: Clipping) -> list[ClippedSum]:
        """What the other devices found for their parts of the step."""
        trained = list(self._adapted.trained.values())
        parts: list[PartSum] = [process.receive() for process in self._processes]
        return [part.clipped_sum(clipping, trained) for part in parts]

    def end(self) -> None:
        """End the processes, in the middle of what they do."""
        for process in self._processes:
            process.end()
        self._processes, self._examples = [], None


class _Process:
    """One process with a device of its own. On Linux it ends with the thread that began it."""

    def __init__(self, recipe: Recipe, section: DeviceSection) -> None:
        self.device = section.name
        command = [sys.executable, "-P", "-m", "client.training.device_process"]
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            [sys.executable, "-I", tether.__file__, str(os.getpid()), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What this process imports, wherever it is; and Ctrl-C reaches it by way of this one.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        self.send(Purpose(recipe=recipe, device=section))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, content: object) -> None:
        """Ask, or tell. That it has ended, whoever receives from it is told."""
        with suppress(BrokenPipeError):
            write_frame(self._requests, pickle.dumps(content))

    def receive(self) -> Any:
        """Its next answer. Raises RunError if it has ended."""
        answer = read_frame(self._answers)
        if answer is None:
            # How it ended may be an example's doing, and is the custodian's to know.
            log.warning("the process on %s ended %s", self.device, how_it_ended(self._process.wait()))
            raise RunError(
                "one of the site's processes on its devices ended: no step is taken without it; the site's "
                "own log says more"
            )
        return pickle.loads(answer)  # noqa: S301  # from a process that this one began

    def end(self) -> None:
        """End it, in the middle of what it does."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        with suppress(BrokenPipeError):
            self._requests.close()
