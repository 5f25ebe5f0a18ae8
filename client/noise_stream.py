"""A run's correlated noise at a site: a secret seed in the site's home, written once, and step indices.

Two noises under one index would differ by what they hide, and noise from another seed would take nothing
back of what is out there. So the seed is on the disk before anything is charged, is never replaced, and
outlives whatever is killed; and an index is the ledger's count of the run's steps, which grows with each
charge, in whatever process, and is never given back. A round that is asked again is charged again, and so
has other indices. A site whose seed is gone once steps were charged takes no more part in the run.

A home that was put back from a copy has its old count, and would use an index again. So a step's noise
follows from its charge, too: from the hash of the ledger's entry, which no other charge has. The file keeps
these, to make earlier noise again. Should one be missing there, such as that of a charge whose process was
killed before its steps, less cancels, and nothing is told: what hides a release is its own step's noise.

Whoever has seed and updates takes the noise off. So the seed is removed with the plan's last step, or when
the custodian ends the run.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.correlated_steps import CorrelatedSteps
from privacy.accounting.banded_plan import BandedPlan
from privacy.canonical import canonical_json
from privacy.durable import make_private_folder, sync_folder, write_durably
from privacy.errors import RunError
from privacy.ledger.receipt import Receipt
from privacy.mechanisms.banded_noise import SEED_BYTES, BandedNoise
from privacy.mechanisms.rng import Entropy

# The first step, how many there are, and the hash of the ledger's entry that reserved them.
_Charge = tuple[int, int, str]


class NoiseStream:
    """The noise of one run at one site; ``digests`` are its examples', one each, in their order.

    ``path`` is the seed's file; a simulation's ``keyed`` seed, which can be made again, has none. An
    example's group is a keyed hash of its digest: it is the same whatever order the examples are in, and
    each group is as good as any other to whoever does not have the seed.
    """

    def __init__(
        self,
        path: Path,
        *,
        plan: BandedPlan,
        digests: Sequence[bytes],
        keyed: bytes | None = None,
        flush: bool = True,
    ) -> None:
        self._path, self._flush = path, flush
        self._plan, self._digests, self._keyed = plan, digests, keyed
        self._opened: tuple[BandedNoise, NDArray[np.int64]] | None = None
        self._seed, self._charges = b"", list[_Charge]()

    def open(self, *, taken: int) -> None:
        """Find the run's seed, or make it, durable when this returns, if no step was ``taken`` yet.

        Once all steps are taken it does nothing: there is none to come. Raises RunError where steps were
        taken under a seed that is not here any more, or is damaged.
        """
        if self._opened is None and (self._keyed or taken < self._plan.steps):
            seed, plan = self._keyed or self._find(taken=taken), self._plan
            noise = BandedNoise(seed, coefficients=plan.coefficients, multiplier=plan.mechanism.multiplier)
            for first, steps, head in self._charges:
                noise.mark(first, steps, head.encode())
            self._opened = noise, _groups(seed, self._digests, plan.bands)

    def steps(self, receipt: Receipt) -> CorrelatedSteps:
        """The steps that a receipt's charge reserved. Raises RunError before ``open``."""
        if self._opened is None:
            raise RunError("expected the seed of the run's noise to be found before a charge")
        noise, groups = self._opened
        first = receipt.taken - receipt.steps
        charge = (first, receipt.steps, receipt.head)
        # A seed that a simulation can make again has noise that it can make again.
        if not self._keyed and charge not in self._charges:
            self._charges.append(charge)
            write_durably(self._path, self._content(), flush=self._flush)
            noise.mark(first, receipt.steps, receipt.head.encode())
        return CorrelatedSteps(noise=noise, groups=groups, first=first)

    def forget_after(self, receipt: Receipt) -> None:
        """Remove the seed once a plan's last steps have left: it serves who would take their noise off."""
        if receipt.taken >= self._plan.steps and not self._keyed:
            self._opened = None
            remove_seed(self._path)

    def _find(self, *, taken: int) -> bytes:
        if not self._path.exists():
            if taken:
                raise self._lost(taken, "is lost")
            self._make()
        try:
            table = json.loads(self._path.read_bytes())
            self._seed = bytes.fromhex(table["seed"])
            self._charges = [(int(first), int(steps), str(head)) for first, steps, head in table["charges"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._lost(taken, "is damaged") from error
        if len(self._seed) != SEED_BYTES:
            raise self._lost(taken, "is damaged")
        return self._seed

    def _content(self) -> bytes:
        return canonical_json({"seed": self._seed.hex(), "charges": [list(one) for one in self._charges]})

    def _lost(self, taken: int, what: str) -> RunError:
        return RunError(
            f"the seed of this site's correlated noise {what}, and steps={taken} of the run were charged "
            "under it: noise from another seed would take none of theirs back, so the site leaves this "
            "run; start a new one"
        )

    def _make(self) -> None:
        """Write a fresh seed, unless another process was first: then that one stays."""
        make_private_folder(self._path.parent, flush=self._flush)
        own = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
        self._seed, self._charges = os.urandom(SEED_BYTES), []
        write_durably(own, self._content(), flush=self._flush)
        with suppress(FileExistsError):
            os.link(own, self._path)
        own.unlink()
        if self._flush:
            sync_folder(self._path.parent)


def remove_seed(path: Path) -> None:
    """Remove a seed, and what a kill left of its making."""
    for found in path.parent.glob(f"{path.name}*"):
        found.unlink(missing_ok=True)


def keyed_seed(entropy: Entropy) -> bytes:
    """A seed that a simulation with keyed noise can make again: it protects nobody, as all such noise."""
    return hashlib.sha256(entropy(0, 0, "stream").seed().to_bytes(8, "big")).digest()


def _groups(seed: bytes, digests: Sequence[bytes], bands: int) -> NDArray[np.int64]:
    """Each example's group, int64[examples], by a hash that is keyed with the seed."""
    key = hmac.digest(seed, b"confide example groups", "sha256")
    found = (int.from_bytes(hmac.digest(key, one, "sha256")[:8], "big") % bands for one in digests)
    return np.fromiter(found, np.int64, len(digests))
