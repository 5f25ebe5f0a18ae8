"""Which of the models that a job names a site loads, and from where: ``[models]`` in site.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from client.custody.site_file import HUB, PACKAGE
from privacy.errors import ModelError, PolicyFileError
from protocol.job.data_section import MODEL_FILES
from protocol.job.job import DRAWN, Job, ModelSection
from tasks.data.package_path import package_path
from tasks.data.tree_file import read_trees
from tasks.registry import find_task
from tasks.task import WritingTask

_PACKAGE = re.compile(r"package:[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_HUB = re.compile(r"hub:[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?")
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def local_source(model: ModelSection, mapped: Mapping[str, str]) -> str:
    """Where a job's model is at this site, as a job of its own would say it.

    Nothing is loaded that the custodian did not name: a job says which of these models it wants. Of a
    network that is drawn nothing is loaded, so that nobody names it. Raises ModelError for any other, with
    the line that would name it.
    """
    if model.source == DRAWN:
        return DRAWN
    place = _named(model.source, mapped, key="model.source")
    if model.gguf is not None and not _FILE.fullmatch(model.gguf):
        raise ModelError(f"model.gguf={model.gguf!r}: expected a file's name inside the source")
    return place.removeprefix(HUB)


def local_job(job: Job, mapped: Mapping[str, str]) -> Job:
    """The job with every model's source where it is at this site: the trained one's, and those beside it.

    Raises ModelError for one that the custodian did not name, with the line that would name it.
    """
    task = find_task(job.task)
    own, beside = job.data.model_extra or {}, dict[str, Any]()
    for key in task.judges if isinstance(task, WritingTask) else ():
        table = own.get(key)
        if table is None:
            continue
        try:
            place = local_source(ModelSection.model_validate({"source": table["source"]}), mapped)
        except ModelError as error:
            raise ModelError(str(error).replace("model.source", f"data.{key}.source")) from error
        beside[key] = {**table, "source": place}
    beside |= {
        key: _local_file(own[key], mapped, key=f"data.{key}")
        for key in MODEL_FILES
        if isinstance(own.get(key), str)
    }
    model = job.model.model_copy(update={"source": local_source(job.model, mapped)})
    return job.model_copy(update={"model": model, "data": job.data.model_copy(update=beside)})


def _named(source: str, mapped: Mapping[str, str], *, key: str) -> str:
    """What the custodian wrote for a source. Raises ModelError without, with the line that would."""
    if source not in mapped:
        place = source if _PACKAGE.fullmatch(source) else "/where/it/is"
        line = tomli_w.dumps({source: place}).strip()
        raise ModelError(
            f"{key}={source!r} is none of the models that this site's custodian named, who can add "
            f"to [models] in site.toml: {line}"
        )
    return mapped[source]


def _local_file(source: str, mapped: Mapping[str, str], *, key: str) -> str:
    """Where a model's file is at this site. Raises ModelError for one that nobody named, or on the Hub."""
    place = _named(source, mapped, key=key)
    if place.startswith(HUB):
        raise ModelError(f"{key}={source!r}: expected a file, got a model of the Hub in [models]")
    return place


def check_models(mapped: Mapping[str, str]) -> None:
    """Raises PolicyFileError for a line of ``[models]`` that names no folder, package, Hub id or trees."""
    for source, place in mapped.items():
        if place.startswith(HUB):
            _check_hub(source, place)
        elif place.startswith(PACKAGE):
            _check_package(source, place)
        elif Path(place).is_file():
            _check_file(source, place)
        elif not Path(place).exists():
            raise PolicyFileError(
                f"models.{source!r}: expected a folder or a file, found none at {place}; a model of the "
                f'Hugging Face Hub is written "{HUB}NAME"'
            )


def _check_file(source: str, place: str) -> None:
    try:
        read_trees(place)  # a model in one file is of no other kind
    except ModelError as error:
        raise PolicyFileError(f"models.{source!r}: {error}") from error


def _check_hub(source: str, place: str) -> None:
    if not _HUB.fullmatch(place):
        raise PolicyFileError(f'models.{source!r}: expected "{HUB}ORGANISATION/NAME", got {place!r}')
    if Path(place.removeprefix(HUB)).exists():
        # It would be loaded in the Hub's place.
        raise PolicyFileError(
            f"models.{source!r}: {place.removeprefix(HUB)} is also a folder here: name the folder by its "
            "whole path, or start the site elsewhere"
        )


def _check_package(source: str, place: str) -> None:
    if not _PACKAGE.fullmatch(place):
        raise PolicyFileError(f'models.{source!r}: expected "{PACKAGE}NAME/PATH", got {place!r}')
    try:
        package_path(place)
    except ModelError as error:
        raise PolicyFileError(f"models.{source!r}: {error}") from error
