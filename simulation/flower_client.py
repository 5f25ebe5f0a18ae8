"""A simulated site inside Flower's own engine, which builds its site where Flower runs it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message

from client.site import Site
from protocol.job.job import Job
from protocol.messages.flower import unwrap, wrap
from runs.run_folder import RunFolder
from simulation.simulated_federation import World


def answer_as_site(message: Message, context: Context, *, job: str, home: Path) -> Message:
    """Hand a message to the site whose ``partition-id`` Flower gives, and its answer back.

    ``job`` is the job as JSON; ``home`` is the folder under which sites keep their records.
    """
    site = _site(job, home, int(context.node_config["partition-id"]))
    return Message(wrap(site.answer(unwrap(message.content))), reply_to=message)


# One worker process serves many sites and many messages: each world is built once in it.
@lru_cache(maxsize=1)
def _world(job: str, run: Path) -> World:
    return World(Job.model_validate_json(job), files=RunFolder.open(run).model_files)


@lru_cache(maxsize=1024)
def _site(job: str, home: Path, index: int) -> Site:
    world = _world(job, home.parent)
    name = world.site_names[index]
    return world.site_of_run(name, RunFolder.open(home.parent))
