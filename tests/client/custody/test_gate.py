"""What a custodian lets in: each rule on its own, and that no row decides about another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.custody.data_set import read_data_set
from client.custody.gate import let_in
from client.custody.site_file import DataSource, read_site_file
from privacy.errors import DataError, JobError, PolicyFileError
from privacy.identity import Identity
from tasks.data.image_gate import ImageGate, sharpness
from tasks.data.rows import Rows
from tasks.data.text_gate import TextGate
from tasks.registry import find_task, gate_of
from tests.client.agents import write_site
from tests.confide.test_site_commands import Terminal, call

__all__ = ["call"]

LABELS = {"label": "label", "labels": ["no", "yes"]}


def data(folder: Path, rows: list[str], **keys: Any) -> DataSource:
    folder.mkdir(exist_ok=True)
    source = folder / "rows.csv"
    source.write_text("\n".join(["text,label", *(f'"{row}",yes' for row in rows)]) + "\n")
    return DataSource.model_validate({"source": str(source), **LABELS, **keys})


@pytest.mark.parametrize(
    ("rules", "passes", "stays_out", "why"),
    [
        ({"least_words": 2}, "one two", "one", "fewer than 2 words"),
        ({"most_words": 2}, "one two", "one two three", "more than 2 words"),
        ({"least_letters": 0.5}, "ab 12", "a 123", "less than 0.5 of it is letters"),
        ({"most_repeated": 0.5}, "a a b c", "a A b a", "one word is more than 0.5 of it"),
        ({"forbidden": ["Top  Secret"]}, "top secretary", "a TOP secret!", "a forbidden word"),
        ({"forbidden": ["c++"]}, "c+ + d", "I use C++ now", "a forbidden word"),
    ],
)
def test_a_text_is_judged_by_each_rule(
    rules: dict[str, Any], passes: str, stays_out: str, why: str
) -> None:
    gate = TextGate.model_validate(rules)
    assert gate.fault(passes) is None
    assert gate.fault(stays_out) == f"the gate: {why}"
    assert stays_out not in str(gate.fault(stays_out))


def test_a_row_that_stays_out_is_a_blank_example(tmp_path: Path) -> None:
    rows = ["good day to all", "no", "bad food was there"]
    open_to_all = read_data_set("notes", data(tmp_path, rows))
    gated = read_data_set("notes", data(tmp_path, rows, gate={"least_words": 2}))
    assert gated.rows.contents == (rows[0], None, rows[2])
    assert gated.blank == {"the gate: fewer than 2 words": (1,)}
    # As many, known by the same: no plan, rate or ledger tells that one stays out.
    assert len(gated) == len(open_to_all)
    assert gated.digests == open_to_all.digests


def test_what_one_row_holds_decides_about_no_other(tmp_path: Path) -> None:
    rows = ["good day to all", "no", "bad food was there", "good day to all"]
    gate = {"least_words": 2, "most_repeated": 0.9}
    whole = read_data_set("notes", data(tmp_path, rows, gate=gate)).rows.contents
    for place in range(len(rows)):
        others = [*rows[:place], "another thing", *rows[place + 1 :]]
        found = read_data_set("notes", data(tmp_path, others, gate=gate)).rows.contents
        assert [one for row, one in enumerate(found) if row != place] == [
            one for row, one in enumerate(whole) if row != place
        ]


def test_data_of_which_nothing_passes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[data\.notes\] .* no row can be used: the gate: fewer than 9"):
        read_data_set("notes", data(tmp_path, ["a b", "c d"], gate={"least_words": 9}))


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({"least_word": 2}, r"data\.data\.gate\.least_word: .*least_words"),
        ({"least_letters": 2.0}, r"data\.data\.gate\.least_letters"),
        ({"least_sharpness": 0.1}, r"data\.data\.gate\.least_sharpness"),
    ],
)
def test_a_rule_that_is_none_is_told_when_the_file_is_read(
    gate: dict[str, Any], told: str, tmp_path: Path, tiny_folder: Path
) -> None:
    source = {"source": str(tiny_folder / "data.csv"), **LABELS, "gate": gate}
    path = write_site(tmp_path / "home", tiny_folder, Identity.generate(), data={"data": source})
    with pytest.raises(PolicyFileError, match=told):
        read_site_file(path)


def test_a_task_without_rules_refuses_a_gate() -> None:
    with pytest.raises(JobError, match=r'gate: expected no gate with task="series-classification"'):
        gate_of("series-classification", {"least_words": 2}, under="gate")
    assert gate_of("series-classification", {}, under="gate") is None


def test_chats_are_judged_by_all_that_is_said() -> None:
    said = ((("user", "Say it"),), (("assistant", "the Secret word"),))
    rows = Rows(contents=(said, None))
    found = let_in(rows, task=find_task("instruction"), rules=TextGate(forbidden=("secret",)))
    assert found.contents == (None, None)
    assert dict(found.faults) == {0: "the gate: a forbidden word"}
    assert let_in(rows, task=find_task("instruction"), rules=TextGate(forbidden=("secrets",))) == rows


def test_a_tables_row_may_lack_a_share_of_its_cells() -> None:
    rows = Rows(contents=((("age", "1.0"), ("city", "")), (("age", ""), ("city", ""))))
    rules = gate_of("tabular", {"most_missing": 0.5}, under="gate")
    found = let_in(rows, task=find_task("tabular"), rules=rules)
    assert found.contents == (rows.contents[0], None)
    assert dict(found.faults) == {1: "the gate: more than 0.5 of its cells are missing"}


def picture(path: Path, greys: np.ndarray) -> Path:
    Image.fromarray(greys.astype(np.uint8)).save(path)
    return path


CHECKS = 200 * (np.indices((64, 64)).sum(axis=0) // 8 % 2)


@pytest.mark.parametrize(
    ("rules", "greys", "why"),
    [
        ({"darkest": 0.2}, np.full((40, 40), 20), "darker than 0.2"),
        ({"brightest": 0.8}, np.full((40, 40), 250), "brighter than 0.8"),
        ({"least_contrast": 0.1}, np.full((40, 40), 128), "its contrast is under 0.1"),
        ({"least_sharpness": 0.01}, np.indices((64, 64))[1] * 4, "its sharpness is under 0.01"),
    ],
)
def test_an_image_is_judged_by_each_rule(
    rules: dict[str, float], greys: np.ndarray, why: str, tmp_path: Path
) -> None:
    gate = ImageGate.model_validate(rules)
    assert gate.fault(picture(tmp_path / "checks.png", CHECKS)) is None
    assert gate.fault(picture(tmp_path / "odd.png", greys)) == f"the gate: {why}"


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    point = np.zeros((5, 5))
    point[2, 2] = 1
    # Of nine places one has -4 and four have 1.
    assert sharpness(point) == pytest.approx((16 + 4) / 9)
    assert sharpness(np.ones((2, 9))) == 0


def test_an_image_gate_has_an_order() -> None:
    with pytest.raises(JobError, match=r"gate\.darkest: expected no more than brightest"):
        gate_of("image-classification", {"darkest": 0.9, "brightest": 0.1}, under="gate")


def test_a_custodian_sees_what_stays_out_and_what_is_nearly_the_same(
    call: Terminal, tmp_path: Path, tiny_folder: Path
) -> None:
    said = "the cat sat on the mat and looked at the dog for a very long while"
    source = data(tmp_path, [said, "no", f"{said} again", said], gate={"least_words": 2})
    table = {"source": source.source, **LABELS, "gate": source.gate}
    path = write_site(tmp_path / "home", tiny_folder, Identity.generate(), data={"data": table})
    code, output, _ = call("site", "check", path, "--json")
    assert code == 0
    (found,) = json.loads(output)["data"]
    assert found["blank"] == {"the gate: fewer than 2 words": [2]}
    assert (found["repeated"], found["near"]) == (1, [3, 4])
    code, output, _ = call("site", "check", path)
    assert "2 rows (3, 4): nearly an earlier one, and an example of its own" in " ".join(output.split())
