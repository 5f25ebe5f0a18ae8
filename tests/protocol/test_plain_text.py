"""What may be in a text that people read, and how anything else is shown."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from privacy.errors import JobError, ProtocolError
from protocol.job.job import Job
from protocol.job.manifest import MOST_BYTES, Manifest, read_manifest
from protocol.plain_text import (
    LONGEST_REASON,
    check_plain,
    cut,
    escaped,
    first_line,
    is_plain,
    quoted,
    quoted_some,
    told,
)
from tests.server.runs import LAYOUT, make_job

HIDDEN = {
    "an escape": "\x1b[31m",
    "a newline": "a\nb",
    "a carriage return": "a\rb",
    "a tab": "a\tb",
    "a null": "a\0",
    "delete": "a\x7f",
    "C1": "a\x9bb",
    "an override": "a\u202eb",
    "an embedding": "\u202aa",
    "an isolate": "a\u2066b\u2069",
    "a mark": "a\u200f",
    "a space of no width": "a\u200bb",
    "a byte order mark": "\ufeffa",
    "a soft hyphen": "a\u00adb",
    "a line's end": "a\u2028b",
    "a paragraph's end": "a\u2029b",
    "half a pair": "a\ud800",
    "a private letter": "a\ue000",
    "a tag": "a\U000e0041",
    "a tag to come": "a\U000e0fff",
    "no character": "a\uffff",
    "a filler": "a\u3164",
    "a grapheme joiner": "a\u034fb",
    "a joiner alone": "\u200d",
    "a joiner in Latin": "pass\u200dword",
    "a non-joiner at the end": "می\u200c",
    "joiners in a row": "می\u200c\u200cخ",
    "a selector alone": "\ufe0f",
    "selectors in a row": "a\U000e0101\U000e0102",
    "a selector after a space of no width": "\u200b\ufe0f",
}
PLAIN = [
    "",
    "positive",
    "sehr gut, naïve café",
    "очень хорошо",
    "とても良い 日本",
    "جيد جدا",
    "می\u200cخواهم",
    "ക്\u200d",
    "क्\u200dष",
    "👩🏽\u200d🚀",
    "❤\ufe0f\u200d🔥",
    "1\ufe0f\u20e3",
    "葛\U000e0101城",
    "a\u00a0b",
    "non-combining: e\u0301",
    "\U0001fae9",
    "[red]'\"<&>%s{}\\x1b",
]


@pytest.mark.parametrize("text", HIDDEN.values(), ids=list(HIDDEN))
def test_what_cannot_be_seen_is_refused_and_shown_as_escapes(text: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"expected text without .* \(here U\+") as caught:
        check_plain(text)
    assert is_plain(caught.value.message())
    assert not is_plain(text)
    for shown in (escaped(text), quoted(text), told(text).replace("\n", "")):
        assert is_plain(shown)
        shown.encode()


@pytest.mark.parametrize("text", PLAIN)
def test_words_of_all_scripts_are_plain(text: str) -> None:
    assert check_plain(text) == escaped(text) == text


@given(st.text(st.characters(codec=None)))
def test_escaped_text_is_plain_and_loses_no_letter(text: str) -> None:
    shown = escaped(text)
    assert is_plain(shown)
    kept = [letter for letter in text if unicodedata.category(letter)[0] in "LNPS" and is_plain(letter)]
    found = iter(shown)
    assert all(letter in found for letter in kept)


def test_lines_stay_lines_where_they_may() -> None:
    assert escaped("a\nb\x1b", lines=True) == "a\nb\\x1b"
    assert escaped("a\nb\x1b") == "a\\nb\\x1b"


def test_a_reason_is_short_whatever_it_quotes() -> None:
    assert told("no room") == "no room"
    for text in ("x" * 10**6, "\x1b" * 10**6, "\U0010ffff" * 10**6):
        assert len(told(text)) <= LONGEST_REASON + 80
        assert "(1000000 characters)" in told(text) or is_plain(told(text))
    assert cut("x" * 12, 10) == "xxxxxxxxxx… (12 characters)"


# Where people write.


@pytest.mark.parametrize("text", [HIDDEN["an escape"], HIDDEN["an override"], HIDDEN["a line's end"]])
@pytest.mark.parametrize(
    "place",
    [
        {"adapter": {"target_modules": ["query", "{}"]}},
        {"adapter": {"layers_to_transform": "{}"}},
        {"model": {"source": "{}"}},
        {"model": {"gguf": "{}"}},
        {"data": {"alias": "{}"}},
        {"data": {"source": "{}"}},
        {"data": {"text": "{}"}},
        {"data": {"label": "{}"}},
        {"data": {"labels": ["good", "{}"]}},
        {"data": {"encoding": "{}"}},
        {"data": {"{}": 1}},
        {"federation": {"partition": {"column": "{}"}}},
        {"federation": {"partition": "{}"}},
        {"privacy": {"unit": "{}"}},
        {"name": "{}"},
    ],
)
def test_no_job_holds_what_cannot_be_seen(place: Any, text: str) -> None:
    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {fill(key): fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item) for item in value]
        return value.replace("{}", text) if isinstance(value, str) else value

    with pytest.raises(JobError) as caught:
        make_job(**fill(place))
    assert is_plain(str(caught.value).replace("\n", ""))


def strings(schema: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every string and list in a JSON schema, by its place."""
    found = []
    if isinstance(schema, dict):
        if schema.get("type") in ("string", "array") and "enum" not in schema and "const" not in schema:
            found.append((path, schema))
        for key, value in schema.items():
            found += strings(value, f"{path}.{key}")
    if isinstance(schema, list):
        for number, value in enumerate(schema):
            found += strings(value, f"{path}.{number}")
    return found


def test_every_string_and_list_of_a_job_is_bounded() -> None:
    found = strings(Job.model_json_schema())
    assert len(found) > 10
    unbounded = [path for path, schema in found if not schema.keys() & {"maxLength", "maxItems"}]
    assert unbounded == []


def test_a_mistake_that_is_long_or_made_often_is_told_in_short() -> None:
    with pytest.raises(JobError) as caught:
        make_job(data={"alias": "x" * 10**6, "y" * 10**6: 1}, adapter={"target_modules": [1] * 900})
    assert len(str(caught.value)) < 10_000
    assert "and 881 more" in str(caught.value)


# Manifests.


def manifest(**changes: Any) -> Manifest:
    whole: dict[str, Any] = {
        "run": "run",
        "job": make_job(),
        "cohort": 2,
        "labels": ("bad", "good"),
        "model_digest": "ab" * 32,
        "layout_digest": LAYOUT.digest,
    }
    return Manifest(**whole | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ("bad", "go\x1bod")},
        {"labels": ("bad", "x" * 501)},
        {"labels": ("bad", 3)},
        {"labels": ("bad",) * 10_001},
        {"model_digest": "\x1b[31m"},
        {"model_digest": "ab" * 33},
        {"model_digest": None},
        {"layout_digest": "AB" * 32},
    ],
)
def test_a_manifest_says_nothing_that_people_could_not_read(changes: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        manifest(**changes)
    assert is_plain(str(caught.value))
    assert len(str(caught.value)) < 500


def test_a_manifest_is_bounded_as_a_whole_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = tuple(f"{number:04}" + "x" * 400 for number in range(3000))
    long = manifest(job=make_job(data={"labels": list(labels)}), labels=labels)
    with pytest.raises(ProtocolError, match=f"{MOST_BYTES} bytes at most"):
        _ = long.content
    # People are told the same, and an ordinary one has room to spare.
    docs = Path(__file__).resolve().parents[2] / "docs"
    for page, words in (("policy.md", "the whole manifest {} MiB"), ("threat-model.md", "of {} MiB each")):
        assert words.format(MOST_BYTES >> 20) in (docs / page).read_text("utf-8")
    assert len(manifest().content) * 500 < MOST_BYTES
    monkeypatch.setattr("json.loads", lambda _text: pytest.fail("it was parsed"))
    with pytest.raises(ProtocolError, match=f"{MOST_BYTES} bytes at most, got {MOST_BYTES + 1}"):
        read_manifest(b"{" * (MOST_BYTES + 1))


def test_a_manifest_nested_without_end_is_none() -> None:
    with pytest.raises(ProtocolError, match="not a manifest"):
        read_manifest(b"[" * 100_000)


def test_the_first_few_are_quoted_and_the_others_counted() -> None:
    assert quoted_some([]) == ""
    assert quoted_some(["a", "b\x1b"]) == r"'a', 'b\x1b'"
    assert quoted_some(list("abcde")) == "'a', 'b', 'c', 'd', 'e'"
    assert quoted_some(list("abcdef")) == "'a', 'b', 'c', 'd', 'e' and 1 more"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("it fails.\nat length"), "it fails"),
        (ValueError("  "), "ValueError"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_error_is_told_in_its_first_line(error: Exception, line: str) -> None:
    assert first_line(error) == line
