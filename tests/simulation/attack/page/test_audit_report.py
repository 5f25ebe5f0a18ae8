"""An audit's page says what was promised, tried and found, in numbers that are its own."""

from __future__ import annotations

import hashlib
import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import UserError
from simulation.attack.evidence import evidence, evidence_digest
from simulation.attack.finding import Finding
from simulation.attack.page.audit_report import (
    Source,
    check_place,
    join_reports,
    render_audit,
    write_audit_report,
)
from tests.confide.test_cli import call
from tests.runs.report.test_report import Outline
from tests.simulation.attack.made_up_audit import (
    made_up_attack,
    made_up_audit,
    made_up_inversion,
    made_up_site_audit,
    without_noise,
)


def render(*findings: Finding) -> str:
    return render_audit(
        [
            Source(finding=finding, name=f"{k}.json", digest=evidence_digest(finding))
            for k, finding in enumerate(findings)
        ]
    )


def words(page: str) -> str:
    """A page's text without its curves, as a reader sees it."""
    text = re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_a_promise_that_holds(tiny_folder: Path) -> None:
    text = words(render(made_up_audit(tiny_folder)))
    assert (
        "No attack broke the promise. The promise is ε ≤ 3.00; the strongest of 3 calculations shows, with "
        "a confidence of 95.0 %, that ε is at least 1.23." in text
    )
    # Of the 3.00 that is shown: e^3 / (1 + e^3), and e^3.
    assert "can become at most 95.3 % sure of it, but for a chance of about 1e-5" in text
    assert "more than e^ε = 20.1 times as likely" in text
    assert "489 were in, and 511 were out" in text
    assert "does so 56.2 % of the time" in text
    assert "by the attacker that sees each round’s result, from the difference of releases 1 and 2" in text
    assert "these attempts found nothing against the promise" in text
    assert "56.2 % (50.0 to 62.5)" in text
    assert "10.0 s for the run, 2.5 s for the attack (×1.25)" in text
    assert "The promise is broken" not in text


def test_a_promise_that_is_broken_is_said_first(tiny_folder: Path) -> None:
    page = render(made_up_audit(tiny_folder, lower=9.876))
    text = words(page)
    assert "The promise is broken. It was ε ≤ 3.00, and an attack shows" in text
    assert "that ε is at least 9.87" in text
    assert "the number is above it, and so the promise does not hold" in text
    assert page.index('class="notice grave"') < page.index('id="promise"')
    assert "Verdict broken 6.88 over the promise" in text


def test_draws_that_are_not_as_planned_break_a_promise_by_themselves(tiny_folder: Path) -> None:
    page = render(made_up_audit(tiny_folder, draws=0.0002))
    text = words(page)
    assert "The promise is broken. ε ≤ 3.00 is for examples that are drawn as the plan says" in text
    assert "come by chance in fewer than 0.1 % of runs" in text
    assert "an attack shows" not in text
    assert "these attempts found nothing against the promise" in text  # of the bounds
    assert "Examples are not drawn as promised" in text
    assert page.index('class="notice grave"') < page.index('id="promise"')


def test_nothing_found_is_said_so(tiny_folder: Path) -> None:
    assert "Here that is 0 for each of them" in words(render(made_up_audit(tiny_folder, lower=0.0)))


@pytest.mark.parametrize("tried", [True, False])
def test_who_was_not_tried_is_said(tiny_folder: Path, *, tried: bool) -> None:
    attackers = ("site", "rounds", "adapter") if tried else ("rounds", "adapter")
    text = words(render(made_up_audit(tiny_folder, attackers=attackers)))
    assert ("no: the job hides each update in a sum" in text) != tried


def test_noise_that_repeats_is_warned_of(tiny_folder: Path) -> None:
    text = words(render(made_up_audit(tiny_folder, seeds={"noise": 7})))
    assert "The job fixes its noise (seeds.noise = 7)" in text
    assert "unless the job fixes them, as this one does" in text


def test_all_that_was_tried_is_on_one_page(tiny_folder: Path) -> None:
    """The verdict is over all attempts, and what is sure of all bounds together is less than of each."""
    audit, attack = made_up_audit(tiny_folder), made_up_attack(tiny_folder)
    text = words(render(audit, attack, made_up_inversion(tiny_folder)))
    assert (
        "the strongest of 7 calculations shows, with a confidence of 90.0 %, that ε is at least 1.23."
        in text
    )
    assert "called broken by bad luck in at most 10.0 % of all audits" in text
    for title in ("Canaries in one run", "Who was in the training data", "Words of single texts"):
        assert text.count(title) == 2  # in what was tried, and in what was found
    assert "yes: canaries in one run; who was in the training data" in text
    assert "2,000 of the sites’ own examples were in the training data or not" in text
    assert "the most that can be, under the plan 68.8 % 0.2 % 2.4 %" in text
    assert "from one site’s update, as it is: 68.8 % at the most, where chance alone finds 3.1 %" in text
    assert "from the sum under masks, with noise: 0.0 % at the most" in text
    for finding in (audit, attack):
        assert finding.provenance.command in text
        assert evidence_digest(finding) in text


def test_one_attack_that_breaks_the_promise_breaks_it_for_all(tiny_folder: Path) -> None:
    page = render(made_up_audit(tiny_folder), made_up_attack(tiny_folder, lower=4.5))
    text = words(page)
    assert "The promise is broken. It was ε ≤ 3.00" in text
    assert "Verdict broken 1.51 over the promise" in text
    assert page.count('class="notice grave"') == 1


def test_whole_sites_are_told_of_as_such(tiny_folder: Path) -> None:
    text = words(render(made_up_site_audit(tiny_folder)))
    assert "The job promises for each single site (all of its data together)" in text
    assert "Of 8 sites, 4 sent a random direction" in text
    assert "not for a person" not in text
    broken = words(render(made_up_site_audit(tiny_folder, lower=9.0)))
    assert "tells more about whole sites than it may" in broken


def test_groups_are_told_of_as_such(tiny_folder: Path) -> None:
    of_groups: dict[str, Any] = {
        "privacy": {"unit": "group"},
        "data": {"group": "town", "rows_per_group": 2},
    }
    findings = made_up_audit(tiny_folder, **of_groups), made_up_attack(tiny_folder, **of_groups)
    text = words(render(*findings))
    assert "for each single group (all rows of one person" in text
    assert "someone who stands in two groups is protected less" in text
    assert "for an example and not" not in text
    assert "1,000 made-up groups, called canaries" in text
    assert "2,000 of the sites’ groups of rows, each of one person’s, were in" in text
    broken = words(render(made_up_audit(tiny_folder, draws=0.0002, **of_groups)))
    assert "is for groups that are drawn as the plan says" in broken
    assert "Groups are not drawn as promised" in broken


def test_without_noise_nothing_is_promised(tiny_folder: Path) -> None:
    text = words(render(without_noise(tiny_folder)))
    assert "Nothing is promised: the job adds no noise. The strongest of 4 calculations shows" in text
    assert "Promised nothing the job adds no noise" in text
    assert "Verdict" not in text


def test_words_alone_test_no_promise(tiny_folder: Path) -> None:
    text = words(render(made_up_inversion(tiny_folder)))
    assert "No promise was put to the test" in text
    assert "Shown by attack" not in text
    assert "bad luck" not in text.split("How to make it again")[0]


def test_the_page_is_one_file_that_is_well_formed(tiny_folder: Path) -> None:
    findings = (made_up_audit(tiny_folder), made_up_attack(tiny_folder), made_up_inversion(tiny_folder))
    page = render(*findings)
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert "script" not in outline.tags
    assert not [value for key, value in outline.attributes if key in {"src", "srcset", "action"}]
    assert all(value.startswith("#") for key, value in outline.attributes if key == "href")
    assert page == render(*findings)
    assert page.count("<svg ") == 5
    for told in ("1a" * 32, "2b" * 32, "3c" * 32, "4d" * 32):
        assert told in page


def test_what_others_wrote_is_shown_and_not_obeyed(tiny_folder: Path) -> None:
    audit = replace(made_up_audit(tiny_folder), job="<b>x</b>\u202e", site="<script>alert(1)</script>")
    page = render(audit)
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
    assert found["attackers"][0]["curve"] == [[0.0, 0.0], [0.1, 0.4], [1.0, 1.0]]
    assert found["provenance"]["seed"] == 20


def test_a_page_is_joined_from_twins(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    findings = {"a": made_up_audit(tiny_folder), "b": made_up_attack(tiny_folder)}
    for name, finding in findings.items():
        (tmp_path / f"{name}.json").write_bytes(evidence(finding))
    paths, to = [tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "all.html"
    assert call(monkeypatch, "audit", "report", *paths, "--to", to) == 0
    assert f"Wrote {to}" in capfd.readouterr().out
    assert words(to.read_text()) == words(
        render_audit(
            [
                Source(finding=finding, name=f"{name}.json", digest=evidence_digest(finding))
                for name, finding in findings.items()
            ]
        )
    )
    paths[1].write_bytes(evidence(made_up_attack(tiny_folder, lower=4.5)))
    assert call(monkeypatch, "audit", "report", *paths, "--to", to) == 1
    assert "the attack 'gradient' shows epsilon >= 4.5" in capfd.readouterr().err
    assert "The promise is broken" in to.read_text()


@pytest.mark.parametrize("what", ["job", "data", "model", "layout"])
def test_attacks_on_different_things_are_not_joined(tiny_folder: Path, tmp_path: Path, what: str) -> None:
    audit, attack = made_up_audit(tiny_folder), made_up_attack(tiny_folder)
    other = replace(attack, provenance=replace(attack.provenance, **{f"{what}_digest": "ff" * 32}))
    (tmp_path / "a.json").write_bytes(evidence(audit))
    (tmp_path / "b.json").write_bytes(evidence(other))
    with pytest.raises(UserError, match=rf"expected attacks on one {what}, got .* in a\.json and f"):
        join_reports([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "all.html")
    assert not (tmp_path / "all.html").exists()


def test_claims_of_two_units_are_two_promises(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match=r"got one of whole sites in 1\.json and others of single examples"):
        render(made_up_attack(tiny_folder), made_up_site_audit(tiny_folder))


@pytest.mark.parametrize("name", ["audit.json", "audit", "nowhere/audit.html", "."])
def test_a_place_that_cannot_be_written_is_named_before_the_audit(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"expected a name that ends in \.html, in a folder that exists"):
        check_place(tmp_path / name)
