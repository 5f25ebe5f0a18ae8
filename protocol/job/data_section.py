"""The job's ``[data]``: where the examples are, and how the job's task reads them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from protocol.job.section import Section
from protocol.plain_text import LONGEST_TEXT, MOST_LABELS, Place, Word, check_plain, quoted

DEFAULT_HOLDOUT = 0.1
MOST_SOURCES = 20  # beside the first
ROWS_PER_GROUP_MAX = 1024  # each group is computed as if it had as many rows as any
JOINT = " + "  # between the names of a mix's sources, where it is called by one
# Of tasks' own keys, those that are the place of a public model's file; tables with a source name others.
MODEL_FILES = ("trees",)
_KEY = re.compile(r"[a-z][a-z0-9_]{0,59}")


def _check_value(value: Any) -> Any:
    """What a task's key may hold before the task has looked at it: no more than people can read."""
    if isinstance(value, dict) and len(value) <= MOST_LABELS:
        return {_check_scalar(key): _check_list(item) for key, item in value.items()}
    return _check_list(value)


def _check_list(value: Any) -> Any:
    if isinstance(value, list) and len(value) <= MOST_LABELS:
        return [_check_scalar(item) for item in value]
    return _check_scalar(value)


def _check_scalar(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= LONGEST_TEXT:
        return check_plain(value)
    if (
        value is None
        or isinstance(value, bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise ValueError("expected text, a finite number, true or false, a list of these, or a table of such")


def _check_separator(value: str) -> str:
    shown = value.isprintable() or value == "\t"
    if len(value) != 1 or value.isalnum() or value == '"' or not shown:
        raise ValueError(
            'expected one character, such as ";" or "\\t", that is no letter, digit or quote, got '
            f"{quoted(value)}"
        )
    return value


Separator = Annotated[
    str, AfterValidator(_check_separator), WithJsonSchema({"type": "string", "maxLength": 1})
]


class SourceKeys(Section):
    """Which files hold a data set, and how they are written: for a job as for a site."""

    source: Place = Field(description="a file, a folder, or package:NAME/PATH")
    split: Word | None = Field(
        default=None, description="which part: of a folder with several, or a sheet of a workbook"
    )
    encoding: Word = "utf-8"
    separator: Separator | None = Field(
        default=None, description='between the cells of a CSV; unset: "," or, in a .tsv, a tab'
    )


class MixedSource(SourceKeys):
    """Another source beside the job's first: its rows are read alike, and are a share of each batch."""

    alias: Word = Field(description="the name that sites know this source by")
    share: Annotated[float, Field(ge=1e-6, lt=1)] = Field(
        description="of a batch's examples, so many come from this source on average"
    )


class DataSection(SourceKeys):
    """Where the examples are, and the keys of the job's task, which ``tasks.registry`` checks."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_check_value)]] = Field(init=False)

    alias: Word = Field("data", description="the name that sites know the data by")
    validation: Place | None = Field(
        default=None, description="held-out examples in a file or folder of their own"
    )
    validation_split: Word | None = Field(
        default=None, description="which part the held-out examples are: of validation, else of the source"
    )
    holdout: Annotated[float, Field(ge=1e-6, le=0.999)] | None = Field(
        default=None, description=f"share that is held out; unset: {DEFAULT_HOLDOUT} without validation"
    )
    limit: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        default=None, description="use only this many examples, drawn by seeds.data"
    )
    group: Word | None = Field(
        default=None, description='a column: rows with one value are one unit, with privacy.unit = "group"'
    )
    rows_per_group: Annotated[int, Field(ge=1, le=ROWS_PER_GROUP_MAX)] | None = Field(
        default=None, description="of a group so many rows count at most; others are left out"
    )
    mix: Annotated[list[MixedSource], Field(max_length=MOST_SOURCES)] = Field(
        default_factory=list, description="other sources, each with a share; the first has the rest"
    )

    @model_validator(mode="after")
    def _named(self) -> DataSection:
        odd = [key for key in self.model_extra or {} if not _KEY.fullmatch(key)]
        if odd:
            raise ValueError("expected keys of up to 60 small letters, digits and underscores")
        return self

    @model_validator(mode="after")
    def _held_out_once(self) -> DataSection:
        apart = self.validation_source
        if apart is not None and self.holdout is not None:
            raise ValueError(
                "holdout: expected none with data.validation, whose examples are the held-out ones"
            )
        if self.validation is None and self.validation_split == self.split is not None:
            raise ValueError("validation_split: expected another than data.split, which is trained on")
        return self

    @model_validator(mode="after")
    def _mixed(self) -> DataSection:
        if not self.mix:
            return self
        if len(set(self.aliases)) < len(self.aliases):
            named = ", ".join(map(quoted, self.aliases))
            raise ValueError(f"mix: expected an alias of its own for each source, got {named}")
        if any(JOINT in alias for alias in self.aliases):
            raise ValueError(f"mix: expected aliases without {quoted(JOINT)}, which stands between them")
        if self.shares[0] < 1e-6:
            raise ValueError(
                "mix: expected shares that leave some for data.source, less than 1 together, got "
                f"{math.fsum(source.share for source in self.mix):g}"
            )
        return self

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names that sites know the sources by, the first source's first."""
        return (self.alias, *(source.alias for source in self.mix))

    @property
    def shares(self) -> tuple[float, ...]:
        """Of a batch, how much comes from each source on average: 1 together."""
        rest = 1.0 - math.fsum(source.share for source in self.mix)
        return (rest, *(source.share for source in self.mix))

    @property
    def joint_alias(self) -> str:
        """What the data are called where there is one name for all sources."""
        return JOINT.join(self.aliases)

    @property
    def validation_source(self) -> SourceKeys | None:
        """Where held-out examples of their own are, which are written like the source; None without."""
        if self.validation is None and self.validation_split is None:
            return None
        return SourceKeys(
            source=self.validation or self.source,
            split=self.validation_split,
            encoding=self.encoding,
            separator=self.separator,
        )
