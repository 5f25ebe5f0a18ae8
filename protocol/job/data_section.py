"""The job's ``[data]``: where the examples are, and how the job's task reads them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from protocol.job.section import Section
from protocol.plain_text import LONGEST_TEXT, MOST_LABELS, Place, Word, check_plain, quoted

DEFAULT_HOLDOUT = 0.1
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
