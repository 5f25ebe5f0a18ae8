"""Reading a job: TOML, keys set on the command line, and errors that name the key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from privacy.errors import JobError
from protocol.job.job import Job
from protocol.plain_text import cut, escaped, quoted

_LONGEST_KEY = 200  # characters, in a message about it
_MOST_MISTAKES = 20  # that are told of


def read_job_file(path: Path, *, settings: Iterable[str] = ()) -> Job:
    """Read a job file and apply ``key=value`` settings, its task's own keys unchecked.

    Raises JobError naming what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise JobError(f"no job file at {path}: `confide init` writes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"cannot read the job file {path}: {error}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path} is not TOML: {error}") from error
    for setting in settings:
        _set(table, setting)
    job = parse_job(table)
    return _beside(job, path.parent)


def parse_job(table: Mapping[str, Any]) -> Job:
    """Check a job given as nested tables. Raises JobError with one line per wrong key."""
    try:
        return Job.model_validate(table)
    except ValidationError as error:
        raise JobError(explain(error, shown_by="that `confide init` shows", model=Job)) from None


def explain(
    error: ValidationError, *, shown_by: str, model: type[BaseModel] | None = None, under: str = ""
) -> str:
    """What is wrong with a file's keys, a line for each; ``shown_by`` says where known keys stand.

    With the file's ``model``, a key that nobody knows is told together with the one that it is most like.
    Keys that stand ``under`` a section are named with it.
    """
    lines = []
    for item in error.errors():
        like = _most_like(item["loc"], model) if item["type"] == "extra_forbidden" else None
        if under:
            item["loc"] = (under, *item["loc"])
        lines.append(_explain(item, shown_by if like is None else f"{shown_by}; did you mean {like!r}?"))
    mistakes = list(dict.fromkeys(lines))
    more = len(mistakes) - _MOST_MISTAKES
    return "\n".join(mistakes[:_MOST_MISTAKES] + [f"and {more} more"] * (more > 0))


def _most_like(place: tuple[int | str, ...], model: type[BaseModel] | None) -> str | None:
    """The key of the same section that an unknown one is most like, if it is like any."""
    for name in place[:-1]:
        field = model.model_fields.get(str(name)) if model is not None else None
        inner = field.annotation if field is not None else None
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    return next(iter(get_close_matches(str(place[-1]), model.model_fields if model else (), n=1)), None)


def _beside(job: Job, folder: Path) -> Job:
    """Relative paths that exist beside the job file mean that file."""

    def resolve(source: str) -> str:
        beside = folder / source
        relative = not source.startswith("package:") and not Path(source).is_absolute()
        return str(beside.resolve()) if relative and beside.exists() else source

    data = job.data.model_copy(update={"source": resolve(job.data.source)})
    model = job.model.model_copy(update={"source": resolve(job.model.source)})
    return job.model_copy(update={"data": data, "model": model})


def _set(table: dict[str, Any], setting: str) -> None:
    """Apply ``training.rounds=2``: the value is TOML, or a string if it is not."""
    key, equals, value = setting.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise JobError(f"expected --set section.key=value, got {setting!r}")
    for name in names[:-1]:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise JobError(f"--set {setting}: {name!r} is a value, not a section")
        table = inner
    try:
        table[names[-1]] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[names[-1]] = value


def _explain(item: Any, shown_by: str) -> str:
    """One pydantic error as ``key: expected …, got …``."""
    # Branches of a union appear in the location under their type's name; people wrote no such key.
    path = cut(escaped(".".join(str(part) for part in item["loc"] if not _is_branch(part))), _LONGEST_KEY)
    kind, given = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return f"{path}: unknown key (expected one {shown_by})"
    if kind == "missing":
        return f"{path}: missing; it has no default"
    if kind == "value_error":
        message = str(item["ctx"]["error"])
        return message if not path else f"{path.split('.')[0]}.{message}"
    expected = item["msg"].replace("Input should be", "expected").replace("String should", "expected to")
    return f"{path}: {expected[0].lower()}{expected[1:]}, got {quoted(given)}"


def _is_branch(part: str | int) -> bool:
    text = str(part)
    return text in {"Dirichlet", "ByColumn", "str", "int"} or "[" in text
