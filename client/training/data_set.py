"""A site's data sets: read as ``site.toml`` says, whatever single rows hold."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

from client.custody.site_file import DataSource
from client.training.digests import example_digest
from privacy.errors import DataError
from protocol.job.job import DataSection
from tasks.data.examples import Examples
from tasks.data.table import RawTable, read_raw_table
from tasks.data.tokenization import NO_LABEL, NO_TEXT, Reader, tokenize
from tasks.model.adapted_model import AdaptedModel

log = logging.getLogger("confide.agent")


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set of a site: its rows, what each is known by, and the labels that are declared."""

    alias: str
    table: RawTable
    digests: tuple[bytes, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def blank(self) -> dict[str, tuple[int, ...]]:
        """Rows, from 0, that are blank before a model sees them, by why; labels count if a job has any."""
        found = {NO_TEXT: tuple(row for row, text in enumerate(self.table.texts) if text is None)}
        if self.table.labels is not None:
            found[NO_LABEL] = tuple(
                row for row, label in enumerate(self.table.labels) if label not in self.labels
            )
        return {why: rows for why, rows in found.items() if rows}

    @property
    def counts(self) -> Counter[str]:
        """How many rows have each label; of those that are declared."""
        return Counter(label for label in self.table.labels or () if label in self.labels)

    def examples(self, adapted: AdaptedModel) -> Examples:
        """As examples for a model, with labels if its task has any.

        How many are blank, and why, is in the custodian's log and nowhere else.
        """
        numbers: list[int | None] | None = None
        if adapted.spec.task == "sequence-classification":
            known = {label: number for number, label in enumerate(self.labels)}
            numbers = [known.get(label or "") for label in self.table.labels or ()]
        found = tokenize(Reader.of(adapted), texts=self.table.texts, labels=numbers)
        for why, rows in found.blank.items():
            log.warning("data.%s: %d rows are blank examples: %s", self.alias, len(rows), why)
        return found.examples


def read_data_set(alias: str, source: DataSource) -> DataSet:
    """Read a data set as ``site.toml`` says.

    Raises DataError, which is for the custodian alone, if there is none, or if no row of it can be used.
    """
    section = DataSection(
        alias=alias,
        source=source.source,
        text=source.text,
        label=source.label,
        labels=source.labels,
        encoding=source.encoding,
    )
    try:
        table = read_raw_table(section)
    except DataError as error:
        raise DataError(f"[data.{alias}] of site.toml: {error}") from error
    found = DataSet(
        alias=alias,
        table=table,
        digests=tuple(example_digest(text or "") for text in table.texts),
        labels=tuple(source.labels or ()),
    )
    for why, rows in found.blank.items():
        if len(rows) == len(table):
            what = f"labels={', '.join(found.labels)}" if why == NO_LABEL else f"text={source.text!r}"
            raise DataError(f"[data.{alias}] of site.toml: {what}: no row can be used: {why}")
    return found
