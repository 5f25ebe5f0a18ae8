"""What a ledger says, as immutable events, and the chain that they hang on.

An entry's body is canonical JSON: its number, the time, the SHA-256 of the body before it, a random salt,
and one event. The site signs each body. The salt hides the body from those who only see its hash in a
receipt.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from privacy.accounting.plan import Plan
from privacy.canonical import canonical_json
from privacy.errors import LedgerError, PlanError
from privacy.ledger.budget import Budget, Spent

VERSION = 1
PURPOSE = "ledger entry"  # what the signature is for
GENESIS = "0" * 64  # what stands for the body before the first

# A run may charge for its training and, apart from it, for metrics; one of statistics for these alone.
Purpose: TypeAlias = Literal["training", "metrics", "statistics"]


@dataclass(frozen=True, kw_only=True)
class Created:
    """The ledger begins: whose it is, and what it allows for each data set."""

    version: int
    site: str
    public_key: str
    budget: Budget


@dataclass(frozen=True, kw_only=True)
class Rebudgeted:
    """The custodian allows another ε from here on. δ and the order stay for good."""

    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A data set; its number is this entry's. ``fingerprint`` is over its examples' keyed digests."""

    fingerprint: str
    examples: int


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A plan begins; ``cost`` is what all its steps would spend, ``spent`` the data set's total with it.

    Noise that is ``keyed`` can be drawn again and taken away: no bound holds for the data from here on, and
    the cost is what fresh noise would have had.
    """

    dataset: int
    run: str
    manifest: str
    purpose: Purpose
    plan: Plan
    keyed: bool
    cost: Spent
    spent: Spent


@dataclass(frozen=True, kw_only=True)
class Released:
    """Steps of a plan, written before their noise is drawn. ``taken`` counts the plan's steps so far."""

    dataset: int
    run: str
    purpose: Purpose
    round: int
    steps: int
    taken: int
    spent: Spent


@dataclass(frozen=True, kw_only=True)
class Summed:
    """A round's sum was made, for a plan that hides sites: ``survivors`` of them are in it.

    ``epsilon`` is what the run has cost so far by what was really summed; a charge of which no sum was told
    counts as planned. It is for those who want to know: the filter charges what was reserved.
    """

    dataset: int
    run: str
    round: int
    survivors: int
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A plan ends early: steps that were not taken never will be."""

    dataset: int
    run: str
    purpose: Purpose
    taken: int
    spent: Spent


@dataclass(frozen=True, kw_only=True)
class Unprotected:
    """A round without noise: no bound holds for this data set any more."""

    dataset: int
    run: str
    manifest: str
    round: int


@dataclass(frozen=True, kw_only=True)
class Approved:
    """The custodian approved a manifest by hand."""

    run: str
    manifest: str


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The site said no, by which rule and why."""

    run: str
    manifest: str
    rule: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ClockSet:
    """The custodian accepts the clock as it is now, though the entry before is of another time, ``before``.

    This entry alone may be older than the one before it.
    """

    before: int


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """An audit of a ``job`` refuted what runs of its kind claim: nothing is spent until a person clears it.

    ``audit`` is SHA-256, as hex, of the evidence, and ``reason`` what it found.
    """

    job: str
    audit: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Unfrozen:
    """The custodian clears a freeze, that of ``entry``, and says why."""

    entry: int
    reason: str


Event: TypeAlias = Union[  # noqa: UP007 - get_args below wants the members
    Created,
    Rebudgeted,
    Registered,
    Begun,
    Released,
    Summed,
    Closed,
    Unprotected,
    Approved,
    Refused,
    ClockSet,
    Frozen,
    Unfrozen,
]
_KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in get_args(Event)}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry. ``number`` counts from 1, ``time`` is in seconds since 1970 (UTC)."""

    number: int
    time: int
    previous: str
    salt: str
    event: Event

    @cached_property
    def body(self) -> bytes:
        """Canonical JSON: keys in order, no spaces, UTF-8."""
        table = {
            "number": self.number,
            "time": self.time,
            "previous": self.previous,
            "salt": self.salt,
            "kind": type(self.event).__name__.lower(),
            "event": to_table(self.event),
        }
        return canonical_json(table)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the body, as hex."""
        return hashlib.sha256(self.body).hexdigest()


def read_entry(body: bytes, *, number: int) -> Entry:
    """Parse a body that stands as entry ``number``. Raises LedgerError if it says something else."""
    try:
        table = json.loads(body)
        entry = Entry(
            number=_value(int, table["number"]),
            time=_value(int, table["time"]),
            previous=_value(str, table["previous"]),
            salt=_value(str, table["salt"]),
            event=from_table(_KINDS[table["kind"]], table["event"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PlanError) as error:
        raise LedgerError(f"it cannot be read: {error!r}", entry=number) from error
    if entry.body != body:
        raise LedgerError("it is not in its canonical form", entry=number)
    if entry.number != number:
        raise LedgerError(f"it calls itself entry {entry.number}", entry=number)
    return entry


def to_table(value: Any) -> dict[str, Any]:
    """A dataclass's fields as JSON takes them, those that its class fixes among them."""
    return {
        name: to_table(found) if dataclasses.is_dataclass(found) else found
        for name in _fields(type(value))  # type: ignore[arg-type]  # a class can be hashed
        for found in [getattr(value, name)]
    }


def from_table(kind: type[Any], table: dict[str, Any]) -> Any:
    """A dataclass from its fields as ``to_table`` gives them, each of the type that it is declared with."""
    if not _fits(kind, table):
        raise ValueError(f"expected the fields of {kind.__name__}, got {table}")
    hints, fixed = _fields(kind), _fixed(kind)  # type: ignore[arg-type]  # a class can be hashed
    return kind(**{name: _value(hints[name], table[name]) for name in hints.keys() - fixed.keys()})


def _fits(kind: Any, table: Any) -> bool:
    """Whether a table has a dataclass's fields and no other, and the values that its class allows alone."""
    if not isinstance(table, dict) or table.keys() != _fields(kind).keys():
        return False
    allowed = all(table[name] in values for name, values in _listed(kind).items())
    return allowed and all(table[name] == value for name, value in _fixed(kind).items())


@cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@cache
def _fixed(kind: Any) -> dict[str, Any]:
    """What all of a dataclass's objects have in common: the fields that nobody can set."""
    return {field.name: field.default for field in dataclasses.fields(kind) if not field.init}


@cache
def _listed(kind: Any) -> dict[str, tuple[Any, ...]]:
    """Fields that hold one of a few values: two plans of other units may have the same fields."""
    return {name: get_args(hint) for name, hint in _fields(kind).items() if get_origin(hint) is Literal}


def _value(hint: Any, value: Any) -> Any:
    if type(value) is hint and hint is not float:  # most are
        return value
    if get_origin(hint) is UnionType:
        return _member_value(get_args(hint), value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_table(hint, value)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(get_args(hint)[0], one) for one in value)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"expected one of {get_args(hint)}, got {value!r}")
        return value
    # A whole number may stand where a person wrote 8 for a budget of 8.0; a truth value may not.
    if type(value) is not hint and not (hint is float and type(value) is int):
        raise ValueError(f"expected {hint}, got {value!r}")
    if hint is float and not abs(value) <= sys.float_info.max:
        raise ValueError(f"expected a finite number, got {value!r}")
    return value


def _member_value(members: tuple[Any, ...], value: Any) -> Any:
    """A value of whichever of a union's types it is: of two dataclasses, the one whose fields it has."""
    if value is None and type(None) in members:
        return None
    some = [member for member in members if member is not type(None)]
    fitting = some if len(some) == 1 else [member for member in some if _fits(member, value)]
    if not fitting:
        raise ValueError(f"expected the fields of one of {[one.__name__ for one in some]}, got {value!r}")
    return _value(fitting[0], value)
