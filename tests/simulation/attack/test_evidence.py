"""What attacks found is read back as it was written, and anything else is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.errors import UserError
from simulation.attack.evidence import evidence, read_evidence
from simulation.attack.finding import Finding
from tests.simulation.attack.made_up_audit import (
    made_up_attack,
    made_up_audit,
    made_up_inversion,
    made_up_site_audit,
    without_noise,
)


@pytest.mark.parametrize(
    "make", [made_up_audit, made_up_attack, made_up_inversion, made_up_site_audit, without_noise]
)
def test_it_comes_back_as_it_was(tiny_folder: Path, make: Callable[[Path], Finding]) -> None:
    finding = make(tiny_folder)
    assert read_evidence(evidence(finding), name="a.json") == finding


def test_without_a_claim_there_is_no_number(tiny_folder: Path) -> None:
    finding = without_noise(tiny_folder)
    assert math.isinf(finding.upper)
    table = json.loads(evidence(finding))
    assert (table["upper"], table["margin"], table["verdict"]) == (None, None, "not refuted")


def test_a_verdict_is_found_anew(tiny_folder: Path) -> None:
    table = json.loads(evidence(made_up_attack(tiny_folder, lower=4.5)))
    assert table["verdict"] == "refuted"
    finding = read_evidence(json.dumps(table | {"verdict": "not refuted", "lower": 0.0}).encode(), name="a")
    assert isinstance(finding, type(made_up_attack(tiny_folder)))
    assert (finding.verdict, finding.lower) == ("refuted", 4.5)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"[]", b"{}", b'{"audit": "x"}', b'{"audit": "inversion"}', b"\xff", b"[" * 100_000],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.json: expected what confide audit empirical, sites, attack"):
        read_evidence(content, name="a.json")


def test_numbers_are_finite(tiny_folder: Path) -> None:
    content = evidence(made_up_attack(tiny_folder)).replace(b'"upper": 2.991', b'"upper": NaN')
    with pytest.raises(UserError, match="ValueError"):
        read_evidence(content, name="a.json")
