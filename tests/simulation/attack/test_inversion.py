"""Inversion: words are in one text's gradient, and neither in a sum with noise nor in a full span."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import UserError
from protocol.job.job_file import job_toml
from simulation.attack.inversion import attack_inversion
from tests.confide.test_cli import call
from tests.simulation.attack.word_jobs import decoder_job, encoder_job, write_words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_words(tmp_path_factory.mktemp("words"))


@pytest.mark.statistics
def test_a_heads_gradient_gives_a_text_away_and_noise_takes_it_back(folder: Path) -> None:
    found = attack_inversion(encoder_job(folder), texts=3, seed=1)
    assert found.method == "pooled"
    views = {(view.name, view.batch): view for view in found.views}
    alone = views["update", 1]
    assert alone.recall > 0.5
    assert alone.chance < 0.1
    assert views["private sum", 1].recall < 0.2
    assert views["update", 16].recall < alone.recall
    assert set(views) == {(name, size) for name in ("update", "sum", "private sum") for size in (1, 16)}


def test_words_lie_in_the_span_while_the_rank_is_larger_than_the_text(folder: Path) -> None:
    found = attack_inversion(decoder_job(folder, rank=10, layers=[0]), texts=3, seed=1)
    assert found.method == "span"
    views = {(view.name, view.batch): view for view in found.views}
    # Nothing is predicted after the last token: its own is not there.
    assert views["update", 1].recall == pytest.approx(5 / 6)
    assert views["update", 1].precision == 1.0
    # Three texts of six words fill the span, as one does at rank 4.
    assert views["sum", 1].recall == views["private sum", 1].recall == 0.0
    assert all(view.recall == 0.0 for view in found.views if view.batch == 16)


@pytest.mark.exhaustive
def test_a_low_rank_hides_words(folder: Path) -> None:
    found = attack_inversion(decoder_job(folder, rank=4, layers=[0]), texts=2, seed=1)
    assert all(view.recall == 0.0 for view in found.views)


def test_a_deep_adapter_reads_no_words(folder: Path) -> None:
    with pytest.raises(UserError, match="reads words as they are"):
        attack_inversion(decoder_job(folder, rank=12, layers=[1]), texts=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy": {"mechanism": "none"}}, "and noise"),
        ({"strategy": {"name": "flora"}}, "a plain mean"),
    ],
)
def test_what_cannot_be_compared_is_refused(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        attack_inversion(encoder_job(folder, **changes))


def test_a_step_of_no_text_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="1 text or more, got 4, 0"):
        attack_inversion(encoder_job(folder), batches=(4, 0))


@pytest.mark.exhaustive
def test_the_command_prints_one_object(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(job_toml(decoder_job(folder, rank=12, layers=[0])))
    asked = ("--texts", "1", "--batch", "1", "--batch", "2", "--seed", "1")
    assert call(monkeypatch, "audit", "inversion", path, *asked, "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["method"] == "span"
    views = [(view["name"], view["batch"]) for view in told["views"]]
    assert views == [(name, size) for size in (1, 2) for name in ("update", "sum", "private sum")]
    assert told["provenance"]["command"].endswith(" --texts 1 --batch 1 --batch 2 --seed 1")
    assert call(monkeypatch, "audit", "inversion", path, "--texts", "1", "--seed", "1") == 0
    assert "one site's update, as it is" in capfd.readouterr().out
