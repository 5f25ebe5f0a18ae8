"""An audit's page says what was promised, tried and found, in numbers that are its own."""

from __future__ import annotations

import hashlib
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.errors import UserError
from simulation.attack.audit_report import check_place, command, render_audit, write_audit_report
from simulation.attack.evidence import evidence, evidence_digest
from tests.runs.report.test_report import Outline
from tests.simulation.attack.made_up_audit import made_up_audit


def words(page: str) -> str:
    """A page's text without its curves, as a reader sees it."""
    text = re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_a_promise_that_holds(tiny_folder: Path) -> None:
    text = words(render_audit(made_up_audit(tiny_folder), twin="audit.json"))
    assert (
        "No attack broke the promise. The promise is ε ≤ 3.00; the strongest of 3 attempts shows, with a "
        "confidence of 95.0 %, that ε is at least 1.23." in text
    )
    # e^2.991 / (1 + e^2.991), and e^2.991.
    assert "can become at most 95.2 % sure of it, but for a chance of about 1e-5" in text
    assert "more than e^ε = 19.9 times as likely" in text
    assert "489 were in, and 511 were out" in text
    assert "does so 56.2 % of the time" in text
    assert "by the attacker that sees each round’s result, from the difference of releases 1 and 2" in text
    assert "so nothing speaks against the promise" in text
    assert "56.2 % (50.0 to 62.5)" in text
    assert "The promise is broken" not in text


def test_a_promise_that_is_broken_is_said_first(tiny_folder: Path) -> None:
    page = render_audit(made_up_audit(tiny_folder, lower=9.876), twin="audit.json")
    text = words(page)
    assert "The promise is broken. It was ε ≤ 3.00, and an attack shows" in text
    assert "that ε is at least 9.87" in text
    assert "the number is above it, and so the promise does not hold" in text
    assert page.index('class="notice grave"') < page.index('id="promise"')
    assert "Verdict refuted 6.88 over the promise" in text


def test_draws_that_are_not_as_planned_break_a_promise_by_themselves(tiny_folder: Path) -> None:
    page = render_audit(made_up_audit(tiny_folder, draws=0.0002), twin="audit.json")
    text = words(page)
    assert "The promise is broken. ε ≤ 3.00 is for examples that are drawn as the plan says" in text
    assert "come by chance in fewer than 0.1 % of runs" in text
    assert "an attack shows" not in text
    assert "so nothing speaks against the promise" in text  # of the bounds
    assert "Examples are not drawn as promised" in text
    assert page.index('class="notice grave"') < page.index('id="promise"')


def test_nothing_found_is_said_so(tiny_folder: Path) -> None:
    text = words(render_audit(made_up_audit(tiny_folder, lower=0.0), twin="audit.json"))
    assert "Here that is 0 for each of them" in text


@pytest.mark.parametrize("tried", [True, False])
def test_who_was_not_tried_is_said(tiny_folder: Path, *, tried: bool) -> None:
    attackers = ("site", "rounds", "adapter") if tried else ("rounds", "adapter")
    text = words(render_audit(made_up_audit(tiny_folder, attackers=attackers), twin="audit.json"))
    assert ("no: the job hides each update in a sum" in text) != tried


def test_noise_that_repeats_is_warned_of(tiny_folder: Path) -> None:
    text = words(render_audit(made_up_audit(tiny_folder, seeds={"noise": 7}), twin="audit.json"))
    assert "The job fixes its noise (seeds.noise = 7)" in text
    assert "unless the job fixes them, as this one does" in text


def test_the_page_is_one_file_that_is_well_formed(tiny_folder: Path) -> None:
    audit = made_up_audit(tiny_folder)
    page = render_audit(audit, twin="audit.json")
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert "script" not in outline.tags
    assert not [value for key, value in outline.attributes if key in {"src", "srcset", "action"}]
    assert all(value.startswith("#") for key, value in outline.attributes if key == "href")
    assert page == render_audit(audit, twin="audit.json")
    assert page.count("<svg ") == 2
    assert command(audit) == "confide audit empirical job.toml --canaries 1000 --seed 20"
    for told in (command(audit), "1a" * 32, "2b" * 32, "3c" * 32, "4d" * 32, evidence_digest(audit)):
        assert told in page


def test_what_others_wrote_is_shown_and_not_obeyed(tiny_folder: Path) -> None:
    audit = replace(made_up_audit(tiny_folder), job="<b>x</b>\u202e", site="<script>alert(1)</script>")
    page = render_audit(audit, twin="audit.json")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;\\u202e" in page


def test_page_and_twin_lie_side_by_side(tiny_folder: Path, tmp_path: Path) -> None:
    audit = made_up_audit(tiny_folder, lower=9.0)
    twin = write_audit_report(audit, tmp_path / "audit.html")
    assert twin == tmp_path / "audit.json"
    content = twin.read_bytes()
    assert content == evidence(audit)
    assert hashlib.sha256(content).hexdigest() in (tmp_path / "audit.html").read_text()
    found = json.loads(content)
    assert (found["upper"], found["lower"], found["verdict"]) == (2.991, 9.0, "refuted")
    assert found["curves"]["rounds"] == [[0.0, 0.0], [0.1, 0.4], [1.0, 1.0]]
    assert (found["provenance"]["seed"], found["provenance"]["asked"]) == (20, 1000)


@pytest.mark.parametrize("name", ["audit.json", "audit", "nowhere/audit.html", "."])
def test_a_place_that_cannot_be_written_is_named_before_the_audit(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"expected a name that ends in \.html, in a folder that exists"):
        check_place(tmp_path / name)
