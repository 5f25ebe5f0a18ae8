"""What every section of a job is, and the one limit that several share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

# With more sites a round's list of them, their keys and their graph take seconds at each of them.
SITES_MAX = 10_000


class Section(BaseModel):
    """Keys that people write: no unknown ones, no conversions, no NaN; and none changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
