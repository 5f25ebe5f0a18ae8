"""What every section of a job is, and the limits that several share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

SITES_MAX = 100_000
# With more sites in a round their list, their keys and their graph take seconds at each of them.
COHORT_MAX = 10_000


class Section(BaseModel):
    """Keys that people write: no unknown ones, no conversions, no NaN; and none changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
