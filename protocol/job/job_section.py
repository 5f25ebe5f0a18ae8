"""A section of a job: unknown keys are mistakes, and values are of their types and finite."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class JobSection(BaseModel):
    """What every section of a job has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
