"""What every attack ends with: what was found, and how it was made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from simulation.attack.provenance import Provenance

# The error that an attack's bounds are allowed together, and each interval of a rate by itself.
ERROR = 0.05

Verdict = Literal["not refuted", "refuted"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an attack on the ``job`` of this name found."""

    job: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Claim(Finding, ABC):
    """What attacks proved of a claim: ε is ``upper`` at most, at ``delta``; infinite where none is made.

    With probability ``confidence`` no bound of theirs is above what it bounds.
    """

    upper: float
    delta: float
    confidence: float

    @property
    @abstractmethod
    def lower(self) -> float:
        """The largest lower bound on ε."""

    @property
    def margin(self) -> float:
        """How far the claim is above what attacks prove; negative where the claim is refuted."""
        return self.upper - self.lower

    @property
    def bounds_hold(self) -> bool:
        """Whether no bound is above the claim."""
        return self.lower <= self.upper

    @property
    def holds(self) -> bool:
        """Whether nothing that was found contradicts the claim."""
        return self.bounds_hold

    @property
    def verdict(self) -> Verdict:
        return "not refuted" if self.holds else "refuted"

    @abstractmethod
    def check(self) -> None:
        """Raises AuditError, naming what shows it, if what is claimed is refuted."""
