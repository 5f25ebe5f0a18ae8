"""A job as a file: TOML read and written, keys set on the command line, and errors that name the key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from privacy.errors import JobError, UnknownNameError
from protocol.job.data_section import MODEL_FILES
from protocol.job.first_and_last import check_features
from protocol.job.job import DRAWN, Job
from protocol.job.strategy import Strategy, default_strategy, find_strategy
from protocol.plain_text import cut, escaped, quoted
from protocol.toml_file import parse_toml, read_toml

_LONGEST_KEY = 200  # characters, in a message about it
_MOST_MISTAKES = 20  # that are told of
# Of unions whose kinds are told apart by their shape, the tags.
_BRANCHES = {"Dirichlet", "ByColumn", "ServerMomentum", "ServerAdam", "ServerAdagrad"} | {
    *("str", "int", "float", "list", "dict"),
}
_SHORT = "secure_aggregation"
_STAGES = "stage"  # a table of a file of stages (see protocol.job.stages_file)


def read_job_file(path: Path, *, settings: Iterable[str] = ()) -> Job:
    """Read a job file and apply ``key=value`` settings, its task's own keys unchecked.

    Raises JobError naming what is wrong.
    """
    try:
        table = read_toml(path)
    except FileNotFoundError as error:
        raise JobError(f"no job file at {path}: `confide init` writes one") from error
    except (OSError, ValueError) as error:
        raise JobError(f"cannot read the job file {path}: {error}") from error
    if _STAGES in table:
        raise JobError(
            f"{path} is a file of stages, and no job: confide simulate and confide plan take it; give "
            "other commands one of its jobs"
        )
    for setting in settings:
        _set(table, setting)
    job = parse_job(_spelled_out(table))
    return beside(job, path.parent)


def parse_job(table: Mapping[str, Any]) -> Job:
    """Check a job given as nested tables. Raises JobError with one line per wrong key."""
    try:
        return Job.model_validate(table)
    except ValidationError as error:
        rule = _rule_of(table)
        raise JobError(
            explain(error, shown_by="that `confide init` shows", model=Job, rules={"strategy": rule})
        ) from None


def _rule_of(table: Mapping[str, Any]) -> type[Strategy]:
    """The class of a job's strategy: its keys are the section's."""
    section = table.get("strategy")
    try:
        return find_strategy(section["name"]) if isinstance(section, dict) else type(default_strategy())
    except (KeyError, UnknownNameError):
        return type(default_strategy())


def _spelled_out(table: dict[str, Any]) -> dict[str, Any]:
    """``secure_aggregation = KIND`` at the top is short for an ``[aggregation]`` of that kind."""
    if _SHORT not in table:
        return table
    section = table.get("aggregation", {})
    if not isinstance(section, dict):
        return table
    if "kind" in section:
        raise JobError(f"{_SHORT}: aggregation.kind is there as well: expected one of them")
    kept = {key: value for key, value in table.items() if key != _SHORT}
    return {**kept, "aggregation": {**section, "kind": table[_SHORT]}}


def explain(
    error: ValidationError,
    *,
    shown_by: str,
    model: type[BaseModel] | None = None,
    under: str = "",
    rules: Mapping[str, type[BaseModel]] | None = None,
) -> str:
    """What is wrong with a file's keys, a line for each; ``shown_by`` says where known keys stand.

    With the file's ``model``, a key that nobody knows is told together with the one that it is most like.
    Keys that stand ``under`` a section are named with it. ``rules`` are sections by name whose keys follow
    from the name that stands in them.
    """
    lines = [_explain(item, shown_by, model, under, rules or {}) for item in error.errors()]
    mistakes = list(dict.fromkeys(lines))
    more = len(mistakes) - _MOST_MISTAKES
    return "\n".join(mistakes[:_MOST_MISTAKES] + [f"and {more} more"] * (more > 0))


def _walk(
    place: tuple[int | str, ...], model: type[BaseModel] | None, rules: Mapping[str, type[BaseModel]]
) -> tuple[list[str], type[BaseModel] | None, object]:
    """The keys that a person wrote on the way to a place, the section that the last is in, and its kind.

    Branches of a union appear in the place too, under the name of their type or their kind: people wrote
    no such key.
    """
    keys: list[str] = []
    section, inner = None, model
    kind: object = None
    kinds: dict[object, type[BaseModel]] = {}
    for part in place:
        if part in kinds:
            kind, inner, kinds = None if _is_branch(part) else part, kinds[part], {}
        elif isinstance(part, int) and len(kinds) == 1:  # one of a list of sections
            keys.append(str(part))
            (inner,), kinds = kinds.values(), {}
        elif not _is_branch(part):
            keys.append(str(part))
            section = inner
            inner, kinds = _within(section.model_fields.get(str(part)) if section else None)
            inner = rules.get(".".join(keys), inner)
    return keys, section, kind


def _within(field: FieldInfo | None) -> tuple[type[BaseModel] | None, dict[object, type[BaseModel]]]:
    """The section that a key holds, or its kinds by name where it has several."""
    if field is None:
        return None, {}
    if isinstance(field.discriminator, str):
        name = field.discriminator
        return None, {one.model_fields[name].default: one for one in get_args(field.annotation)}
    inner = field.annotation
    if isinstance(inner, type):
        return (inner if issubclass(inner, BaseModel) else None), {}
    return None, {one.__name__: one for one in _models_in(inner)}


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The sections that a union has, told apart by their shape."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def beside(job: Job, folder: Path) -> Job:
    """Relative paths that exist beside the job file mean that file.

    Raises JobError where ``check_features`` finds, only now, that public data are private ones.
    """

    def resolve(source: str) -> str:
        beside = folder / source
        relative = not source.startswith("package:") and not Path(source).is_absolute()
        return str(beside.resolve()) if relative and beside.exists() else source

    apart, own = job.data.validation, job.data.model_extra or {}
    data = job.data.model_copy(
        update={
            "source": resolve(job.data.source),
            "validation": None if apart is None else resolve(apart),
            "mix": [one.model_copy(update={"source": resolve(one.source)}) for one in job.data.mix],
            # Of a task's own keys, tables that name another model, and a model's file.
            **{
                key: table | {"source": resolve(table["source"])}
                for key, table in own.items()
                if isinstance(table, dict) and isinstance(table.get("source"), str)
            },
            **{key: resolve(own[key]) for key in MODEL_FILES if isinstance(own.get(key), str)},
        }
    )
    named = job.model.source
    public = job.model.features
    model = job.model.model_copy(
        update={
            "source": named if named == DRAWN else resolve(named),
            "features": None if public is None else resolve(public),
        }
    )
    training, begun = job.training, job.training.warm_start
    if begun is not None:
        training = training.model_copy(update={"warm_start": resolve(begun)})
    found = job.model_copy(update={"data": data, "model": model, "training": training})
    try:
        check_features(found)  # once more: what lies in what may show only now
    except ValueError as error:
        raise JobError(str(error)) from error
    return found


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
        table[names[-1]] = parse_toml(f"value = {value}")["value"]
    except ValueError:
        table[names[-1]] = value


def _explain(
    item: Any,
    shown_by: str,
    model: type[BaseModel] | None,
    under: str,
    rules: Mapping[str, type[BaseModel]],
) -> str:
    """One pydantic error as ``key: expected …, got …``."""
    keys, section, of_kind = _walk(item["loc"], model, rules)
    path = cut(escaped(".".join([under] * bool(under) + keys)), _LONGEST_KEY)
    kind = item["type"]
    if kind == "extra_forbidden":
        known = section.model_fields if section is not None else ()
        like = next(iter(get_close_matches(keys[-1], known, n=1)), None)
        which = "" if of_kind is None else f" of kind={of_kind!r}"
        hint = "" if like is None else f"; did you mean {like!r}?"
        if section is not None and section in rules.values():
            which, shown_by = f" of name={section.model_fields['name'].default!r}", f"of {', '.join(known)}"
        return f"{path}: unknown key{which} (expected one {shown_by}{hint})"
    if kind == "missing":
        return f"{path}: missing; it has no default"
    if kind == "union_tag_invalid":
        name, expected = item["ctx"]["discriminator"].strip("'"), item["ctx"]["expected_tags"]
        return f"{path}.{name}: expected one of {expected}, got {quoted(item['ctx']['tag'])}"
    if kind == "value_error":
        message = str(item["ctx"]["error"])
        if message.startswith("expected"):  # a key's own check, which does not know its name
            return f"{path}: {message}"
        return message if not path else f"{path.split('.')[0]}.{message}"
    return f"{path}: {_expected(item)}"


def _expected(item: Any) -> str:
    """What was expected of a value, and what it is."""
    kind, given = item["type"], quoted(item.get("input"))
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return f"expected a section of keys, got {given}"
    if kind in {"too_short", "too_long"}:
        context = item["ctx"]
        bound = (
            f"at least {context['min_length']}"
            if kind == "too_short"
            else f"at most {context['max_length']}"
        )
        return f"expected {bound} of them, got {context['actual_length']}"
    expected = item["msg"].replace("Input should be", "expected").replace("String should", "expected to")
    return f"{expected[0].lower()}{expected[1:]}, got {given}"


def _is_branch(part: str | int) -> bool:
    text = str(part)
    return text in _BRANCHES or "[" in text


def job_toml(job: Job) -> str:
    """A job as TOML, every key filled in but those that are unset."""
    return tomli_w.dumps(job.model_dump(mode="json", exclude_none=True))


def job_digest(job: Job) -> str:
    """SHA-256 of a job as TOML, in hex: the same for every file that says the same of a training."""
    return hashlib.sha256(job_toml(job.model_copy(update={"statistics": None})).encode()).hexdigest()
