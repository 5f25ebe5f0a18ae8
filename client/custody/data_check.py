"""What a custodian looks at before any coordinator is heard: which rows are blank, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.custody.data_set import DataSet, read_data_set
from client.custody.model_sources import check_models
from client.custody.site_file import HUB, SiteFile
from privacy.errors import ModelError
from tasks.data.near_duplicates import near_duplicates
from tasks.data.oddities import find_oddities
from tasks.data.rows import NO_CONTENT
from tasks.data.text_gate import TextGate
from tasks.task import GatedTask


@dataclass(frozen=True, kw_only=True)
class ModelCheck:
    """What one of the site's models makes of a data set.

    ``failure`` says why its tokenizer cannot be tried. ``blank`` has the rows, from 0, that it makes blank
    beyond those that are for any model. ``sizes`` are the least, the median and the most of an example, in
    ``unit``; None where none has any.
    """

    model: str
    failure: str | None = None
    blank: Mapping[str, tuple[int, ...]]
    sizes: tuple[int, int, int] | None = None
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """One data set as its custodian may see it: nothing of this is told to anybody else.

    ``near`` has the texts, by row from 0, that are nearly an earlier one. None of them is kept out: whether
    one is would depend on another row, and then a person's example would decide about two.
    ``oddities`` are sentences about it.
    """

    alias: str
    rows: int
    labels: Mapping[str, int]
    blank: Mapping[str, tuple[int, ...]]
    repeated: int
    near: tuple[int, ...]
    oddities: tuple[str, ...]
    models: tuple[ModelCheck, ...]


def check_data(site_file: SiteFile) -> tuple[DataCheck, ...]:
    """Read all data sets of a site as its agent would, and try each model's tokenizer on them.

    Raises DataError for data that the agent would not start with, PolicyFileError for models that are none.
    """
    check_models(site_file.models)
    sets = [read_data_set(alias, source) for alias, source in site_file.data.items()]
    return tuple(_check(one, site_file.models) for one in sets)


def _check(data: DataSet, models: Mapping[str, str]) -> DataCheck:
    known = Counter(
        digest
        for digest, content in zip(data.digests, data.rows.contents, strict=True)
        if content is not None
    )
    return DataCheck(
        alias=data.alias,
        rows=len(data),
        labels={label: data.counts[label] for label in data.labels},
        blank=data.blank,
        repeated=sum(known.values()) - len(known),
        near=near_duplicates(_texts(data)),
        oddities=find_oddities(data.rows, labels=data.labels),
        # A file is of trees, which are there for a job's columns, and were read when the site's file was.
        models=tuple(
            _try(data, name, place) for name, place in models.items() if not Path(place).is_file()
        ),
    )


def _texts(data: DataSet) -> list[str | None]:
    """What rows say, for a task on texts; nothing for others."""
    task, contents = data.task, data.rows.contents
    if not isinstance(task, GatedTask) or task.Gate is not TextGate:
        return []
    return [None if content is None else task.judged(content) for content in contents]


def _try(data: DataSet, name: str, place: str) -> ModelCheck:
    try:
        reader = data.task.open_reader(place.removeprefix(HUB), data.columns)
    except ModelError as error:
        return ModelCheck(model=name, failure=str(error), blank={})
    found = data.task.encode(reader, data.rows, labels=())
    sizes = found.examples.sizes[found.examples.sizes > 0]
    spread = (int(sizes.min()), int(np.median(sizes)), int(sizes.max())) if len(sizes) else None
    return ModelCheck(
        model=name,
        blank={why: rows for why, rows in found.blank.items() if why != NO_CONTENT},
        sizes=spread,
        unit=data.task.units.size,
    )
