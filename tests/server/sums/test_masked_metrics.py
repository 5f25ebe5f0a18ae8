"""Metrics under masks: one sum over all that answer, and nothing of one site."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from privacy.errors import ProtocolError, SiteError
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from tests.server.masked import (
    SITES,
    MaskedPost,
    changed,
    ends,
    masked_folder,
    steps,
)
from tests.server.scripted import Acts, go

REFUSED = SiteError("not with us", exit_code=2)


def measured(tmp_path: Path) -> RunFolder:
    return masked_folder(tmp_path / "run", metrics=0.5)


def test_metrics_are_a_sum_and_nothing_of_one_site(tmp_path: Path) -> None:
    """Each of five sites has one right answer of two."""
    folder = measured(tmp_path)
    go(folder, MaskedPost(folder))
    metrics = folder.metrics
    assert metrics is not None
    assert (metrics.total.right, metrics.total.examples) == (5 * 2**30, 10)
    assert metrics.told_by == SITES
    table = json.loads((folder.path / "metrics.json").read_text())
    assert table["sites"] == {}
    assert table["told_by"] == list(SITES)
    assert sorted(folder.receipts("metrics")) == list(SITES)
    assert audit_run(folder).metrics == 0.5


def test_metrics_of_those_who_answer(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    acts: Acts = {("east", "evaluate", 3): None, ("west", "evaluate", 3): REFUSED}
    post = MaskedPost(folder, acts)
    go(folder, post)
    metrics = folder.metrics
    assert metrics is not None
    assert metrics.told_by == ("arctic", "north", "south")
    assert (metrics.total.right, metrics.total.examples) == (3 * 2**30, 6)
    assert audit_run(folder).metrics == 0.5
    # The secrets for them came with the last round's answers.
    assert [kind for kind, n, _ in steps(post, "north") if n == 3] == [
        "train",
        "confirm",
        "unmask",
        "evaluate",
        "confirm",
        "unmask",
    ]


def test_too_few_metrics_are_asked_for_again(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    post = MaskedPost(folder, {(site, "evaluate", 3): None for site in ("east", "south", "west")})
    assert "metrics: expected answers from at least 3 sites in time, got 2" in str(ends(folder, post))
    again = MaskedPost(folder, before=post)
    go(folder, again)
    assert folder.metrics is not None
    assert folder.metrics.told_by == SITES
    # Nothing but metrics was asked for, with secrets of their own.
    assert {kind for _, kind, _, _ in again.asked} == {"join", "deal", "evaluate", "confirm", "unmask"}


def test_metrics_that_are_too_short_leave_their_site_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = measured(tmp_path)
    with caplog.at_level(logging.WARNING):
        go(folder, MaskedPost(folder, {("south", "evaluate", 3): changed(masked=b"1")}))
    assert "expected 2 words of 64 bits" in caplog.text
    assert folder.metrics is not None
    assert folder.metrics.told_by == ("arctic", "east", "north", "west")


def test_metrics_that_add_up_to_what_cannot_be(tmp_path: Path) -> None:
    """Under masks nobody knows who said so: there are no metrics."""
    folder = measured(tmp_path)
    error = ends(folder, MaskedPost(folder, {("south", "evaluate", 3): changed(masked=b"\xff" * 16)}))
    assert isinstance(error, ProtocolError)
    assert "the sites' metrics add up to what cannot be" in str(error)
    assert folder.metrics is None
    assert len(folder.records()) == 3
