"""The rows of a data set as they were read, before a model sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

# Why a row is blank, whatever the model.
NO_CONTENT = "no content, or none that can be read"
NO_LABEL = "no label, or one that is not declared"
# Why one is blank in a mix.
IN_TWO = "in an earlier source, too"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """n rows. None stands for what is missing or cannot be decoded.

    ``contents`` are what the examples are, apart from their labels: equal ones are one example written
    twice. They can be sorted. ``labels`` are None for data without any; a row has one, or a tuple of them
    for a task whose examples have several. ``faults`` says why a row, from 0, lacks something, where there
    is more to say. ``remarks`` are sentences on the columns, for whoever the rows belong to.
    """

    contents: tuple[Any, ...]
    labels: tuple[Any, ...] | None = None
    faults: Mapping[int, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.contents)

    def take(self, places: Iterable[int]) -> Rows:
        """The rows at these places, in that order."""
        chosen = list(places)
        return Rows(
            contents=tuple(self.contents[place] for place in chosen),
            labels=None if self.labels is None else tuple(self.labels[place] for place in chosen),
            faults={new: self.faults[old] for new, old in enumerate(chosen) if old in self.faults},
        )


def once(parts: Sequence[Rows], digests: Sequence[Sequence[bytes]]) -> list[Rows]:
    """The parts, with blanks in the places of contents that an earlier part has, by their ``digests``.

    Parts are drawn from each by itself: who stood in two would be in a sum twice, for one charge.
    """
    seen, found = set[bytes](), list[Rows]()
    for part, own in zip(parts, digests, strict=True):
        again = {place for place, one in enumerate(own) if one in seen}
        seen.update(own)
        contents = tuple(None if n in again else content for n, content in enumerate(part.contents))
        faults = {place: IN_TWO for place in again if part.contents[place] is not None}
        found.append(replace(part, contents=contents, faults={**part.faults, **faults}) if again else part)
    return found


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one part after another; labels if all have them."""
    if len(parts) == 1:
        return parts[0]
    faults, before = dict[int, str](), 0
    for part in parts:
        faults |= {before + place: fault for place, fault in part.faults.items()}
        before += len(part)
    labels = [part.labels for part in parts]
    return Rows(
        contents=tuple(content for part in parts for content in part.contents),
        labels=None if None in labels else tuple(one for part in labels for one in part or ()),
        faults=faults,
        remarks=tuple(dict.fromkeys(remark for part in parts for remark in part.remarks)),
    )


def labels_in(entry: Any) -> tuple[str, ...]:
    """The labels in a row's entry: one, several, or none.

    >>> labels_in("yes"), labels_in(("a", "b")), labels_in(None)
    (('yes',), ('a', 'b'), ())
    """
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def present(cell: str | None) -> str | None:
    """A cell as it is written, None if it holds nothing but spaces."""
    return cell if cell and not cell.isspace() else None
