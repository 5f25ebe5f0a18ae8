"""What a site keeps secret of a run, as bytes that outlive its process."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from privacy.canonical import canonical_json
from privacy.errors import AggregationError
from privacy.secagg.ckks.homomorphic_sum import KeyState
from privacy.secagg.masks.site_steps import SiteState

State = TypeVar("State", SiteState, KeyState)


def dump_state(state: SiteState | KeyState) -> bytes:
    """A state as canonical JSON, bytes as hex. It is as secret as what it is of."""
    table: dict[str, Any] = _plain(state)
    return canonical_json(table)


def load_as(kind: type[State], content: bytes) -> State:
    """Read what ``dump_state`` wrote of one kind. Raises AggregationError if it is something else."""
    try:
        state: State = _value(kind, json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise AggregationError(
            "a run's secrets at this site are damaged: remove the file, and the site joins again",
            rule="secrets",
        ) from error
    return state


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _value(hint: Any, value: Any) -> Any:
    """A value as it is declared, from what JSON has for it."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        names = [field.name for field in dataclasses.fields(hint)]
        return hint(**{name: _value(hints[name], value[name]) for name in names})
    if get_origin(hint) is UnionType:
        return None if value is None else _value(get_args(hint)[0], value)
    if get_origin(hint) is tuple:
        return tuple(_value(get_args(hint)[0], item) for item in value)
    if get_origin(hint) is Mapping:
        return {name: _value(get_args(hint)[1], item) for name, item in value.items()}
    if hint is bytes:
        return bytes.fromhex(value)
    if type(value) is not hint:
        raise ValueError(f"expected {hint}, got {value!r}")
    return value
