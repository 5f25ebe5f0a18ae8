"""What is odd about a data set: nothing that stops a run, and that a person should hear before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from protocol.plain_text import quoted, quoted_some
from tasks.data.rows import Rows, labels_in

# A label that has more of the rows makes accuracy say little.
MOST_OF_ALL = 0.9
_MANY = 20  # labels, of which each should have several rows


def find_oddities(rows: Rows, *, labels: Sequence[str], held_out: Rows | None = None) -> tuple[str, ...]:
    """A sentence for each; ``labels`` are those that are declared, or that the rows have, or none.

    That some rows are held out and trained on, too, is odd.
    """
    of_labels = _of_labels(rows, labels) if rows.labels is not None and labels else ()
    both = len(set(rows.contents) & set(held_out.contents)) if held_out is not None else 0
    shared = f"examples that data.validation and data.source have in common: {both}; they flatter scores"
    return (*rows.remarks, *_of_contents(rows), *of_labels, *([shared] if both else []))


def _of_contents(rows: Rows) -> Iterator[str]:
    known = [content for content in rows.contents if content is not None]
    if len(known) > 1 and len(set(known)) == 1:
        yield f"all {len(known)} rows that can be used hold the same"


def _of_labels(rows: Rows, labels: Sequence[str]) -> Iterator[str]:
    counts = Counter(label for entry in rows.labels or () for label in labels_in(entry))
    declared = set(labels)
    known = {label: counts[label] for label in labels}
    total = sum(known.values())
    most = max(labels, key=lambda label: known[label])
    several = any(isinstance(entry, tuple) for entry in rows.labels or ())
    if total and not several and known[most] / total >= MOST_OF_ALL:
        yield (
            f"{known[most]} of {total} rows have the label {quoted(most)}: always answering that is right "
            f"in {100 * known[most] / total:.1f} %, so look at the scores by label"
        )
    if len(known) > _MANY and 2 * len(known) > total and not several:
        yield f"there are {len(known)} labels in {total} rows: is that the column of labels?"
    missing = [label for label in labels if not known[label]]
    if missing and total:
        yield f"no row has the label {quoted_some(missing)}"
    near = {_plain(label): label for label in reversed(labels)}
    for label, count in sorted(counts.items()):
        other = near.get(_plain(label))
        if label not in declared and other is not None:
            yield (
                f"{_have(count)} the label {quoted(label)}, which is not declared; {quoted(other)} is, "
                "and differs in spaces, capitals or .0 alone"
            )
    for place, label in enumerate(labels):
        same = next((one for one in labels[:place] if _plain(one) == _plain(label)), None)
        if same is not None:
            yield f"the labels {quoted(same)} and {quoted(label)} differ in spaces, capitals or .0 alone"


def _have(count: int) -> str:
    return "1 row has" if count == 1 else f"{count} rows have"


def _plain(label: str) -> str:
    """A label without what people and programs write differently: spaces, capitals, 1.0 for 1."""
    return re.sub(r"(?<=\d)\.0+$", "", " ".join(label.casefold().split()))
