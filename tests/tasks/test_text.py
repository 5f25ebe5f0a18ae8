"""An example is known by its text."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.sequence_classification import TASK
from tasks.text import TextKeys


@pytest.mark.parametrize(
    "text",
    ["Fever and chills", " fever  AND\tchills\n", "ｆｅｖｅｒ and chills", "FEVER and chills\u00a0"],
    ids=["case", "spacing", "wide letters", "a space that does not break"],
)
def test_the_same_text_is_the_same_example_however_it_is_written(text: str) -> None:
    """Else the same example would have another budget for each way to write it."""
    assert TASK.digest(text) == TASK.digest("fever and chills")


def test_texts_of_other_words_are_other_examples() -> None:
    texts = ["fever and chills", "fever and chill", "chills and fever", "feverand chills", "\ud800"]
    assert len({TASK.digest(text) for text in texts}) == len(texts)


@pytest.mark.parametrize("keys", [TASK.Section, TASK.Columns])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["no", "yes", "no"], "labels: expected each once"),
        (["no", " "], "labels: expected none that is empty"),
    ],
)
def test_a_label_is_listed_once_and_not_empty(keys: type[TextKeys], labels: list[str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        keys(label="label", labels=labels)
