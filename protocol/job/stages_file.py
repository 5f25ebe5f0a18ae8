"""A file of stages: jobs that run one after another, each from the last one's adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from privacy.errors import JobError
from protocol.job.job_file import explain
from protocol.job.section import Section
from protocol.plain_text import LONGEST_TEXT, Place
from protocol.toml_file import read_toml

STAGES_MAX = 8
KEPT = "stages.json"  # in the folder of stages that have begun
# What the shares of all stages may be off one by, as people round them.
_SHARES_OFF = 1e-6


class StageSection(Section):
    """One ``[[stage]]``: a job file, and what part of the privacy loss is for it."""

    job: Place
    # Keys of the job that are another here, as --set has them.
    settings: list[Annotated[str, Field(max_length=LONGEST_TEXT)]] = Field(default_factory=list)
    # Unset in all: one noise multiplier.
    share: Annotated[float, Field(ge=1e-3, lt=1)] | None = None


class StagesFile(Section):
    """Stages in order. ``epsilon`` and ``delta`` are promised to a unit that is in all of them."""

    name: str = Field("stages", min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    epsilon: Annotated[float, Field(ge=1e-6, le=100)]
    delta: Annotated[float, Field(ge=1e-9, lt=0.5)]
    stage: Annotated[list[StageSection], Field(min_length=2, max_length=STAGES_MAX)]

    @model_validator(mode="after")
    def _shares(self) -> StagesFile:
        shares = [one.share for one in self.stage if one.share is not None]
        if shares and (len(shares) < len(self.stage) or abs(sum(shares) - 1.0) > _SHARES_OFF):
            raise ValueError(
                "stage: expected a share in each stage or in none, and 1 as their sum, got "
                f"{', '.join('none' if one.share is None else f'{one.share:g}' for one in self.stage)}"
            )
        return self


def is_stages_file(path: Path) -> bool:
    """Whether a file has stages, and so is no job: what is wrong with it, whoever reads it says."""
    try:
        return "stage" in read_toml(path)
    except (OSError, ValueError):
        return False


def is_stages_folder(path: Path) -> bool:
    """Whether a folder is one of stages that have begun, and of no run."""
    return (path / KEPT).exists()


def read_stages_file(path: Path) -> StagesFile:
    """Read a file of stages, whose jobs lie beside it. Raises JobError with one line per wrong key."""
    try:
        return StagesFile.model_validate(read_toml(path))
    except ValidationError as error:
        raise JobError(explain(error, shown_by="that docs/language.md lists", model=StagesFile)) from None
    except (OSError, ValueError) as error:
        raise JobError(f"cannot read the file of stages {path}: {error}") from error
