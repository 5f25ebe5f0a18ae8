"""What tasks on texts have in common: how rows are read and tokenized, and how long a text may be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from privacy.errors import ModelError
from protocol.job.data_section import SourceKeys
from protocol.plain_text import Word
from tasks.data.rows import Rows, present
from tasks.data.text_digest import digest_text
from tasks.data.text_gate import TextGate
from tasks.labelled_keys import LabelledKeys
from tasks.task import Encoded, TaskKeys, Units

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.data.examples import Examples
    from tasks.data.shapes import Sizes
    from tasks.data.token_examples import TokenExamples
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel, Pretrained

# A custodian wants to know how long texts are: nothing is cut for that.
_UNCUT = 1_000_000


_README = """\
# A classifier

transformers has no class for this kind of model with a classifier's head. One of its own parts loads it:

```python
{code}```
"""


class _TextColumn(TaskKeys):
    """The column of texts."""

    text: Word = "text"


class TextKeys(LabelledKeys, _TextColumn):
    """The columns of texts and of their labels."""


class LengthKeys(TaskKeys):
    """What a job says of how long texts are: longer ones are cut to ``max_length`` tokens."""

    max_length: Annotated[int, Field(ge=2, le=32768)] = 128


class TextSection(LengthKeys, TextKeys):
    """A job's keys."""


class TextColumns(TextKeys):
    """A site's keys: texts with labels, or without."""

    @model_validator(mode="after")
    def _labelled(self) -> TextColumns:
        if (self.label is None) != (self.labels is None):
            raise ValueError("labels: expected both label and labels, or neither")
        return self


class TextTask:
    """A task whose examples are texts. A text has ``least_tokens`` at least."""

    units = Units(example="text", size="tokens")
    pretrained, drawn = True, False
    Section: type[LengthKeys] = TextSection
    Columns: type[TaskKeys] = TextColumns
    Gate: type[TaskKeys] = TextGate
    least_tokens = 1

    def judged(self, content: Any) -> str:
        """The text that a gate looks at."""
        text: str = content
        return text

    def read(self, data: SourceKeys, columns: Any) -> Rows:
        """Texts, None where there is none, and labels if there is a column of them."""
        from tasks.data.read_table import read_table

        names = [columns.text, *([columns.label] if columns.label else [])]
        table = read_table(data, columns=names)
        texts = table.column(columns.text, key="data.text")
        labels = table.column(columns.label, key="data.label") if columns.label else None
        return Rows(
            contents=tuple(map(present, texts)),
            labels=None if labels is None else tuple(map(present, labels)),
            faults=table.faults,
        )

    def one_row_an_example(self, columns: Any) -> bool:  # noqa: ARG002
        """A row is a text."""
        return True

    def digest(self, content: Any) -> bytes:
        """SHA-256 of the text, 32 bytes.

        Labels do not count: the same text under another label, column order or data set is the same
        example. Neither do case, spacing and Unicode's ways of writing one character (NFKC).
        """
        return digest_text(content or "")

    def wrap(self, loaded: Pretrained, *, section: LengthKeys, peft_type: str | None = None) -> BaseModel:
        """A model of transformers' as Confide knows it."""
        from tasks.data.tokenization import Reader
        from tasks.model.base_model import BaseModel

        reader = Reader(
            tokenizer=loaded.tokenizer,
            max_length=section.max_length,
            least=max(self.least_tokens, loaded.shortest),
            tokens=loaded.tokens,
            padding=loaded.padding,
        )
        return BaseModel(
            model=loaded.model,
            digest=loaded.digest,
            reader=reader,
            head=loaded.head,
            peft_type=peft_type,
            limit=loaded.limit,
            drawn=loaded.drawn,
            unused=loaded.unused,
            remarks=loaded.remarks,
        )

    def open_reader(self, source: str, columns: Any) -> Any:
        """The tokenizer of a model. Data without labels are for language models, as long as two tokens."""
        from tasks.data.tokenization import Reader
        from tasks.model.base_model import load_tokenizer

        tokenizer, tokens = load_tokenizer(source)
        least = 1 if columns.classes else 2
        return Reader(tokenizer=tokenizer, max_length=_UNCUT, least=least, tokens=tokens, padding=0)

    def sizes(self, base: BaseModel, section: LengthKeys) -> Sizes:
        """From two tokens, or what the model needs, to ``max_length``, padded to steps of a ladder."""
        from tasks.data.shapes import Sizes, ladder

        if base.limit is not None and section.max_length > base.limit:
            raise ModelError(
                f"data.max_length={section.max_length}: expected {base.limit} at most, which is what "
                "this model can take"
            )
        least = max(2, base.reader.least)
        if section.max_length < least:
            raise ModelError(
                f"data.max_length={section.max_length}: expected {least} at least, which this model needs"
            )
        longest = self.longest(base, section)
        public = ladder(longest, possible=base.limit)
        return Sizes(least=least, most=longest, public=public)

    def longest(self, base: BaseModel, section: LengthKeys) -> int:  # noqa: ARG002  # for tasks with others
        """How many tokens a row has at most."""
        return section.max_length

    def encode(self, reader: Any, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        """Each text tokenized by itself, with its label's number if there are ``labels``."""
        from tasks.data.tokenization import tokenize

        numbers: list[int | None] | None = None
        if labels:
            known = {label: number for number, label in enumerate(labels)}
            numbers = [known.get(label or "") for label in rows.labels or ()]
        return tokenize(reader, texts=rows.contents, labels=numbers)

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> Examples:
        """Texts of any tokens but padding, with labels if the model tells any apart."""
        return self.made_up_texts(adapted, random, sizes)

    def made_up_texts(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> TokenExamples:
        """Texts of these sizes, of any tokens but padding, with labels if the model tells any apart."""
        import numpy as np

        from tasks.data.examples import offsets_of
        from tasks.data.token_examples import TokenExamples

        reader, classes = adapted.base.reader, adapted.peft.config.num_labels
        known = np.array([token for token in range(reader.tokens) if token != reader.padding])
        return TokenExamples(
            tokens=random.choice(known, int(sizes.sum())).astype(np.int32),
            offsets=offsets_of(sizes),
            labels=random.integers(0, classes, len(sizes)) if adapted.base.head else None,
            padding=reader.padding,
        )

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """Model and tokenizer as one folder for transformers' ``from_pretrained``.

        Where transformers has no class for the model, ``README.md`` says in a few lines how it is loaded.
        """
        from tasks.model.classifier import how_to_load, made_here

        merged.save_pretrained(folder)
        base.reader.tokenizer.save_pretrained(folder)
        if made_here(merged):
            (folder / "README.md").write_text(_README.format(code=how_to_load(merged)), encoding="utf-8")
