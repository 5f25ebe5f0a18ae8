"""Chat messages as data sets write them, from files of all kinds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from privacy.errors import DataError
from protocol.job.data_section import SourceKeys
from tasks.data.chat import NO_MESSAGES, digest_of, read_conversation
from tasks.data.read_table import read_table
from tasks.data.rows import Rows
from tasks.instruction import TASK, InstructionColumns

HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SAID = (("user", "Hi"), ("assistant", "Hello"))


def read(path: Path, **columns: str) -> Rows:
    return TASK.read(SourceKeys(source=str(path)), InstructionColumns(**columns))


def write_json(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[Any]) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_csv(path: Path, rows: list[Any]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows(
            [cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()] for row in rows
        )
    return path


@pytest.mark.parametrize(
    ("write", "name"), [(write_json, "a.jsonl"), (write_parquet, "a.parquet"), (write_csv, "a.csv")]
)
def test_messages_are_read_from_files_of_all_kinds(tmp_path: Path, write: Any, name: str) -> None:
    rows = read(write(tmp_path / name, [{"messages": HELLO}, {"messages": HELLO[:1]}]), messages="messages")
    assert rows.contents == (((), SAID), ((), SAID[:1]))
    assert rows.faults == {}


@pytest.mark.parametrize(
    ("written", "said"),
    {
        "ShareGPT": ([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], SAID),
        "more keys": ([{**message, "weight": 1, "name": None} for message in HELLO], SAID),
        "a text in parts": (
            [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}],
            SAID[:1],
        ),
        "a picture": ([{"role": "user", "content": [{"type": "image"}]}], None),
        "nothing said": ([{"role": "user", "content": None}], None),
        "nobody says it": ([{"content": "Hi"}], None),
        "no messages": ([], None),
        "a zero byte": ([{"role": "user", "content": "a\0"}], None),
        "words": (["Hi", "Hello"], None),
    }.values(),
)
def test_forms_of_messages(written: Any, said: Any) -> None:
    assert read_conversation(json.dumps(written)) == said


def test_a_text_is_one_message_even_if_it_begins_as_a_list_does() -> None:
    for text in ("[sic] Hi", "[1, 2]", '["a"]', "[" * 100_000):
        assert read_conversation(text, role="user") == (("user", text),)
        assert read_conversation(text) is None


def test_prompts_and_completions_are_texts_or_messages(tmp_path: Path) -> None:
    path = write_json(
        tmp_path / "a.jsonl",
        [
            {"instruction": "Hi", "input": "", "output": "Hello"},
            {"instruction": "Add.", "input": "2, 3", "output": "5"},
            {"instruction": HELLO, "input": None, "output": HELLO[1:]},
            {"instruction": "Hi", "input": None, "output": None},
            {"instruction": [{"role": "user"}], "input": None, "output": "Hello"},
        ],
    )
    rows = read(path, prompt="instruction", input="input", completion="output")
    assert rows.contents == (
        (SAID[:1], SAID[1:]),
        ((("user", "Add.\n\n2, 3"),), (("assistant", "5"),)),
        (SAID, SAID[1:]),
        None,
        None,
    )
    assert rows.faults == {4: NO_MESSAGES}


def test_what_one_row_holds_decides_about_that_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps({"messages": HELLO})
    twice = '{"messages": [{"role": "user", "role": "user", "content": "Hi"}]}'
    half = '{"messages": [{"role": "user", "content": "\\ud800"}]}'
    path.write_text(f'{good}\n{twice}\n{half}\n{{"messages": "Hi"}}\n{{"messages": {{"a": 1}}}}\n{{}}\n')
    rows = read(path, messages="messages")
    assert rows.contents == (((), SAID), None, None, None, None, None)
    assert set(rows.faults) == {1, 2, 3, 4}
    assert "twice" in rows.faults[1]
    assert "surrogate" in rows.faults[2]


def test_other_tasks_still_refuse_lists(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"messages": HELLO}])
    with pytest.raises(DataError, match="lists of messages"):
        read_table(SourceKeys(source=str(path)), columns=["messages"]).column("messages", key="data.text")


def test_one_conversation_has_one_digest_however_it_is_written() -> None:
    same = [
        ((), SAID),
        (SAID[:1], SAID[1:]),
        ((("user", " HI "),), (("assistant", "hello"),)),
    ]
    assert len({TASK.digest(content) for content in same}) == 1
    others = [
        ((), (("user", "Hi"),)),
        ((), (("assistant", "Hi"), ("user", "Hello"))),
        ((), (("user", "Hi assistant"), ("assistant", "Hello"))),
        None,
    ]
    assert len({TASK.digest(content) for content in [same[0], *others]}) == 5
    assert len(digest_of(())) == 32
