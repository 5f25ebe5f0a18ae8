"""One worker of a simulation: a process that answers for some of the sites, with one thread.

``python -m simulation.worker_process`` reads what it is for, and then requests, from its standard input.
What it writes to standard output are answers. It ends when its input does.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from protocol.processes.frames import read_frames, write_frame


def main() -> None:
    """Answer until nobody asks: after what it is for, a frame with a site's name and one with a request.

    With ``profile`` a second frame after each answer says what it took: seconds by part, as JSON.
    """
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    frames = read_frames(requests)
    asked = json.loads(next(frames))

    from protocol.job.job import Job
    from protocol.processes.json_log import PlainFormatter
    from protocol.processes.time_spent import Clock
    from runs.run_folder import RunFolder
    from simulation.simulated_federation import World
    from simulation.sites_on_demand import sites_of_run

    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter())
    logging.getLogger("confide").addHandler(handler)
    folder = RunFolder.open(Path(asked["folder"]))
    world = World(Job.model_validate(asked["job"]), files=folder.model_files)
    sites, clock = sites_of_run(world, folder), Clock()
    with clock.running() if asked["profile"] else nullcontext():
        for name, request in zip(frames, frames, strict=False):
            clock.take()  # it waited to be asked
            write_frame(answers, sites.named(name.decode()).answer(request))
            if asked["profile"]:
                write_frame(answers, json.dumps(clock.take()).encode())


if __name__ == "__main__":
    main()
