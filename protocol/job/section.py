"""What every section of a job is, and the limits that several share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator

SITES_MAX = 100_000
# With more sites in a round their list, their keys and their graph take seconds at each of them.
COHORT_MAX = 10_000


class Section(BaseModel):
    """Keys that people write: no unknown ones, no conversions, no NaN; and none changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def by_shape(kind: Callable[[Any], str | None], expected: str) -> Discriminator:
    """Which kind of value a union takes one for, so that what is wrong with it is said of that kind alone.

    ``kind`` gives the kind's tag. A value of no kind is told what was ``expected``.
    """
    return Discriminator(kind, custom_error_type="shape", custom_error_message=expected)
