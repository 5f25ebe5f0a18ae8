"""A run's correlated noise at a site: a secret seed in the site's home, written once, and step indices.

Two noises under one index would differ by what they hide, and noise from another seed would take nothing
back of what is out there. So the seed is on the disk before anything is charged, is never replaced, and
outlives whatever is killed; and an index is the ledger's count of the run's steps, which grows with each
charge, in whatever process, and is never given back. A round that is asked again is charged again, and so
has other indices. A site whose seed is gone once steps were charged takes no more part in the run.

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

    def open(self, *, taken: int) -> None:
        """Find the run's seed, or make it, durable when this returns, if no step was ``taken`` yet.

        Once all steps are taken it does nothing: there is none to come. Raises RunError where steps were
        taken under a seed that is not here any more, or is damaged.
        """
        if self._opened is None and (self._keyed or taken < self._plan.steps):
            seed = self._keyed or self._find(taken=taken)
            plan = self._plan
            noise = BandedNoise(seed, coefficients=plan.coefficients, multiplier=plan.mechanism.multiplier)
            self._opened = noise, _groups(seed, self._digests, plan.bands)

    def steps(self, receipt: Receipt) -> CorrelatedSteps:
        """The steps that a receipt's charge reserved. Raises RunError before ``open``."""
        if self._opened is None:
            raise RunError("expected the seed of the run's noise to be found before a charge")
        noise, groups = self._opened
        return CorrelatedSteps(noise=noise, groups=groups, first=receipt.taken - receipt.steps)

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
            seed = bytes.fromhex(json.loads(self._path.read_bytes())["seed"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._lost(taken, "is damaged") from error
        if len(seed) != SEED_BYTES:
            raise self._lost(taken, "is damaged")
        return seed

    def _lost(self, taken: int, what: str) -> RunError:
        return RunError(
            f"the seed of this site's correlated noise {what}, and steps={taken} of the run were charged "
            "under it: noise from another seed would take none of theirs back, so the site leaves this "
            "run; start a new one, or put the site's home back whole"
        )

    def _make(self) -> None:
        """Write a fresh seed, unless another process was first: then that one stays."""
        make_private_folder(self._path.parent, flush=self._flush)
        own = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
        write_durably(own, canonical_json({"seed": os.urandom(SEED_BYTES).hex()}), flush=self._flush)
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
