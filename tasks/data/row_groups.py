"""Groups of rows: all that one person has, by a column, of which so many rows count at most."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.read_table import read_table
from tasks.data.rows import Rows, labels_in, present

_WHOLE = re.compile(r"\A(-?[0-9]+)\.0+\Z")


class Group(NamedTuple):
    """A group's name, and the contents and labels of those of its rows that count; () without labels."""

    name: str
    contents: tuple[Any, ...]
    labels: tuple[Any, ...]


def read_groups(data: SourceKeys, column: str, rows: Rows) -> tuple[str | None, ...]:
    """Whose each row is, None for nobody's. Raises DataError without the column, or where it is empty."""
    cells = read_table(data, columns=[column]).column(column, key="data.group")
    found = tuple(None if present(cell) is None else plain_name(str(cell)) for cell in cells)
    if len(found) != len(rows):
        raise DataError(
            f"data.group={column!r}: expected one value for each of {len(rows)} rows, got {len(found)}"
        )
    if not any(found):
        raise DataError(f"data.group={column!r}: no row has a value there")
    return found


def plain_name(cell: str) -> str:
    """The one way to write a group's name: Unicode's NFKC without spaces around; of whole numbers, digits.

    A column of numbers becomes 1.0, 2.0, … where another row's cell is empty. Names that differ in more
    than that are two groups.

    >>> plain_name(" 12.0 "), plain_name("01"), plain_name("12.50")
    ('12', '01', '12.50')
    """
    name = unicodedata.normalize("NFKC", cell).strip()
    return _WHOLE.sub(r"\1", name)


def digest_group(name: str) -> bytes:
    """SHA-256 of the name, 32 bytes: a group has one budget, whatever rows are added to it."""
    return hashlib.sha256(json.dumps(name).encode()).digest()


def in_groups(
    rows: Rows, names: Sequence[str | None], *, most: int, digest: Callable[[Any], bytes]
) -> Rows:
    """A row a group, in the order of their names' digests, of at most ``most`` rows each.

    Which of a group's rows count, and in which order, follows from the group alone: they go by a digest of
    its name with what a row holds. So the order of a file's rows decides nothing. A row without content or
    label is none; a group without any row stays, blank: how many groups there are follows from names alone.
    Rows of nobody are left out, and a remark counts them.
    """
    members: dict[str, list[tuple[bytes, Any, str, Any]]] = {}
    for place, name in enumerate(names):
        if name is None:
            continue
        own = members.setdefault(name, [])
        content = rows.contents[place]
        label = None if rows.labels is None else rows.labels[place]
        if content is None or (rows.labels is not None and label is None):
            continue
        parts = [digest_group(name), digest(content), json.dumps(label).encode()]
        own.append((hashlib.sha256(b"".join(parts)).digest(), content, json.dumps(label), label))
    groups = []
    for name in sorted(members, key=digest_group):
        kept = sorted(members[name], key=lambda row: row[:3])[:most]
        contents, labels = tuple(row[1] for row in kept), tuple(row[3] for row in kept)
        groups.append(Group(name, contents, labels if rows.labels is not None else ()))
    nobodys = sum(name is None for name in names)
    cut = sum(max(0, len(own) - most) for own in members.values())
    remarks = (
        f"{nobodys} rows are of no group, and are left out",
        f"{cut} rows are beyond data.rows_per_group={most} of their groups, and are left out",
    )
    told = (remark for remark, count in zip(remarks, (nobodys, cut), strict=True) if count)
    return Rows(
        contents=tuple(groups),
        labels=None if rows.labels is None else tuple(map(_labels, groups)),
        remarks=(*rows.remarks, *told),
    )


def _labels(group: Group) -> tuple[str, ...]:
    return tuple(label for entry in group.labels for label in labels_in(entry))
