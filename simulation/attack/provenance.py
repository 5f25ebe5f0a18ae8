"""What an attack was made of: enough to make it again, and to see that it is of what it says."""

from __future__ import annotations

import hashlib
import secrets
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from protocol.job.job_file import job_digest, job_toml
from simulation.simulated_federation import World

_SEED_BITS = 48  # few enough that any reader of JSON keeps them all


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How an attack is made again: by ``command``, with the job's every key in the file ``job.toml``.

    ``seed`` is in the command; ``noise_seed`` is the job's own, None where noise is fresh. Digests are
    SHA-256 as hex: of the job file, of all its examples' own digests, sorted, of the base model and of the
    adapter's layout. ``began`` is in seconds since 1970. Of the processor's time, ``run_seconds`` are what
    the run took that was attacked, with all that it loads, and ``attack_seconds`` all else.
    """

    command: str
    seed: int
    job_toml: str
    unit: str
    mechanism: str
    noise_seed: int | None
    job_digest: str
    data_digest: str
    model_digest: str
    layout_digest: str
    versions: Mapping[str, str]
    began: int
    run_seconds: float
    attack_seconds: float


class Tracing:
    """An attack as it goes on, from its first moment: its ``seed``, and what it has taken so far.

    Without a seed one is drawn, and told afterwards.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = secrets.randbits(_SEED_BITS) if seed is None else seed
        self._began, self._start, self._run = int(time.time()), time.process_time(), 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this block the attacked run goes on, or what it needs is loaded."""
        start = time.process_time()
        try:
            yield
        finally:
            self._run += time.process_time() - start

    def attacking(self, seconds: float) -> None:
        """So many seconds of the run's were the attack's own: they were spent on canaries."""
        self._run -= seconds

    def end(self, world: World, command: str, **options: str | int | Sequence[int]) -> Provenance:
        """The provenance, after the last of the attack; ``options`` are the command's, by their names.

        One with several values is given for each of them.
        """
        job = world.job
        each = {name: [v] if isinstance(v, str | int) else v for name, v in options.items()}
        words = [word for name, many in each.items() for one in many for word in (f"--{name}", str(one))]
        digests = sorted(world.digests())
        return Provenance(
            command=shlex.join(["confide", "audit", command, "job.toml", *words, "--seed", str(self.seed)]),
            seed=self.seed,
            job_toml=job_toml(job),
            unit=job.privacy.unit,
            mechanism=job.privacy.mechanism,
            noise_seed=job.seeds.noise,
            job_digest=job_digest(job),
            data_digest=hashlib.sha256(b"".join(digests)).hexdigest(),
            model_digest=world.adapted.model_digest,
            layout_digest=world.adapted.layout.digest,
            versions=dict(world.workplace.facts()["versions"]),
            began=self._began,
            run_seconds=round(self._run, 3),
            attack_seconds=round(time.process_time() - self._start - self._run, 3),
        )
