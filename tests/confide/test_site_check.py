"""``confide site check``: what a custodian sees of the data before any coordinator is heard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from privacy.identity import Identity
from tests import tiny
from tests.client.agents import write_site
from tests.confide.test_site_commands import Terminal, call

__all__ = ["call"]

ROWS = [
    b"good day,yes",
    b",no",
    b"bad food,maybe",
    b"good day,yes",
    b"late \xff train,no",
    b"poor night early,no",
]


def site(folder: Path, tiny_folder: Path, rows: list[bytes], **data: object) -> Path:
    source = folder / "rows.csv"
    source.write_bytes(b"text,label\n" + b"\n".join(rows) + b"\n")
    columns = {"source": str(source), "label": "label", "labels": ["no", "yes"], **data}
    return write_site(folder / "home", tiny_folder, Identity.generate(), data={"data": columns})


def test_blank_rows_are_told_with_their_reasons(call: Terminal, tmp_path: Path, tiny_folder: Path) -> None:
    code, output, _ = call("site", "check", site(tmp_path, tiny_folder, ROWS), "--json")
    assert code == 0
    (found,) = json.loads(output)["data"]
    assert (found["alias"], found["rows"], found["repeated"]) == ("data", 6, 1)
    assert found["labels"] == {"no": 3, "yes": 2}
    assert found["blank"] == {
        "no content, or none that can be read": [2],
        "column 'text' cannot be decoded by data.encoding='utf-8'": [5],
        "no label, or one that is not declared": [3],
    }
    (model,) = found["models"]
    assert model["failure"] is None
    assert model["blank"] == {}
    assert model["sizes"] == [4, 4, 5]  # with [CLS] and [SEP]


def test_people_read_it_in_lines(call: Terminal, tmp_path: Path, tiny_folder: Path) -> None:
    code, output, _ = call("site", "check", site(tmp_path, tiny_folder, ROWS))
    assert code == 0
    assert "data.data: 6 rows\n  labels: no 3, yes 2\n" in output
    assert "blank: 1 row (2): no content, or none that can be read" in output
    assert "4 to 5 tokens, half up to 4" in output


def test_labels_that_nearly_match_are_said(call: Terminal, tmp_path: Path, tiny_folder: Path) -> None:
    path = site(tmp_path, tiny_folder, [*ROWS, b"warm day,yes ", b"cold day,Yes"])
    code, output, _ = call("site", "check", path)
    assert code == 0
    words = " ".join(output.split())
    assert "note: 1 row has the label 'yes ', which is not declared; 'yes' is" in words
    assert "note: 1 row has the label 'Yes', which is not declared; 'yes' is" in words
    assert len(json.loads(call("site", "check", path, "--json")[1])["data"][0]["oddities"]) == 2


def test_a_text_that_a_model_cannot_use_is_blank_with_it_alone(
    call: Terminal, tmp_path: Path, tiny_folder: Path
) -> None:
    model = tmp_path / "short"
    tiny.write_model(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 12}))
    path = site(tmp_path, tiny_folder, ROWS)
    path.write_text(path.read_text().replace(str(tiny_folder / "model"), str(model)))
    code, output, _ = call("site", "check", path, "--json")
    assert code == 0
    (found,) = json.loads(output)["data"]
    # Twelve tokens end with "food"; "early" comes after it.
    assert found["models"][0]["blank"] == {"a token that the model does not know": [6]}


@pytest.mark.parametrize(
    ("rows", "data", "words"),
    [
        (ROWS, {"text": "words"}, "no such column"),
        (ROWS, {"labels": ["up", "down"]}, "labels=up, down: no row can be used"),
        ([b",no", b" ,yes"], {}, "no row can be used"),
        ([b"good day,yes,more"], {}, "row 1: expected 2 cells as in the header, got 3"),
    ],
)
def test_data_that_cannot_be_used_at_all_are_one_sentence(
    call: Terminal,
    tmp_path: Path,
    tiny_folder: Path,
    rows: list[bytes],
    data: dict[str, object],
    words: str,
) -> None:
    code, output, errors = call("site", "check", site(tmp_path, tiny_folder, rows, **data))
    assert code == 2
    assert not output
    assert words in errors
    assert "good day" not in errors
