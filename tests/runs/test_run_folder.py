"""Run folders: whole or absent."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import RunError
from privacy.ledger.receipt import SignedReceipt
from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.manifest import Manifest
from protocol.job.strategy import State
from runs.run_folder import RoundRecord, RunFolder
from tests import tiny

LAYOUT = AdapterLayout(slots=(TensorSlot(name="b", shape=(3,), trained=True),))


def record(number: int) -> RoundRecord:
    return RoundRecord(
        round=number,
        loss=1.0,
        measures={"accuracy": 0.5, "loss": 1.0},
        epsilon={"a": 1.0},
        bytes_up=1,
        bytes_down=1,
        seconds=1.0,
        training_seconds=0.5,
    )


def state(number: int) -> State:
    return State(adapter=np.full(3, number, np.float32), memory={"v": np.full(2, -number, np.float64)})


def create(path: Path, tiny_folder: Path, *, flush: bool = True) -> RunFolder:
    manifest = Manifest(
        run="r",
        job=tiny.job(tiny_folder),
        cohort=1,
        labels=(),
        model_digest="",
        layout_digest=LAYOUT.digest,
    )
    return RunFolder.create(
        path,
        manifest=manifest,
        facts={},
        layout=LAYOUT,
        state=state(0),
        adapter_config={"r": 1},
        flush=flush,
    )


def test_what_was_finished_is_there(tmp_path: Path, tiny_folder: Path) -> None:
    folder = create(tmp_path / "run", tiny_folder)
    for number in (1, 2):
        folder.finish_round(record(number), LAYOUT, state(number))
    again = RunFolder.open(tmp_path / "run")
    assert again.records() == [record(1), record(2)]
    for number in range(3):
        found = again.load_state(number, LAYOUT)
        assert found.adapter.tolist() == [number] * 3
        assert {name: array.tolist() for name, array in found.memory.items()} == {"v": [-number] * 2}
    assert (again.adapter_path / "adapter_config.json").exists()
    assert again.adapter_path.resolve().name == "002"


def test_an_existing_folder_is_not_written_over(tmp_path: Path, tiny_folder: Path) -> None:
    create(tmp_path / "run", tiny_folder)
    with pytest.raises(RunError, match="exists already"):
        create(tmp_path / "run", tiny_folder)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder.open(tmp_path)


class FullError(OSError):
    """The disk is full, from some write on."""


def fail_from(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let ``count`` flushes to the disk succeed; every later one fails."""
    left = [count]
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise FullError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("count", range(12))
def test_a_disk_that_fills_up_leaves_no_half_folder(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with monkeypatch.context() as patch:
        fail_from(patch, count)
        try:
            create(tmp_path / "run", tiny_folder)
            failed = False
        except FullError:
            failed = True
    names = [path.name for path in tmp_path.iterdir()]
    assert [name for name in names if name.startswith(".")] == []
    if failed and not names:
        return
    # What stands under the name is whole.
    folder = RunFolder.open(tmp_path / "run")
    assert folder.manifest.run == "r"
    assert folder.load_adapter(0, LAYOUT)[0] == 0


@pytest.mark.parametrize("count", range(6))
def test_a_round_that_cannot_be_written_never_counts(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    folder = create(tmp_path / "run", tiny_folder)
    folder.finish_round(record(1), LAYOUT, state(1))
    with monkeypatch.context() as patch:
        fail_from(patch, count)
        with suppress(FullError):
            folder.finish_round(record(2), LAYOUT, state(2))
    done = len(folder.records())
    assert done in {1, 2}
    assert folder.load_adapter(done, LAYOUT)[0] == done
    folder.finish_round(record(done + 1), LAYOUT, state(done + 1))
    assert len(folder.records()) == done + 1


def test_a_line_that_was_cut_off_does_not_count(tmp_path: Path, tiny_folder: Path) -> None:
    folder = create(tmp_path / "run", tiny_folder)
    folder.finish_round(record(1), LAYOUT, state(1))
    path = folder.path / "rounds.jsonl"
    path.write_text(path.read_text() + '{"round": 2, "lo')
    assert folder.records() == [record(1)]
    folder.finish_round(record(2), LAYOUT, state(2))
    assert folder.records() == [record(1), record(2)]


def test_a_folder_without_flushes_is_as_whole_and_waits_for_no_disk(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_from(monkeypatch, 0)
    with pytest.raises(FullError):
        create(tmp_path / "flushed", tiny_folder)
    folder = create(tmp_path / "run", tiny_folder, flush=False)
    signed = SignedReceipt(content=b"{}", signature=bytes(64))
    for number in (1, 2):
        assert folder.take_counter() == number
        folder.keep_public_keys({"a": bytes(32)})
        folder.save_receipts(number, {"a": signed})
        folder.finish_round(record(number), LAYOUT, state(number))
    again = RunFolder.open(tmp_path / "run")
    assert again.records() == [record(1), record(2)]
    assert again.receipts(2) == {"a": signed}
    assert again.load_adapter(2, LAYOUT)[0] == 2
    with pytest.raises(FullError):
        again.take_counter()


def test_a_lost_adapter_is_said(tmp_path: Path, tiny_folder: Path) -> None:
    folder = create(tmp_path / "run", tiny_folder)
    with pytest.raises(RunError, match="lost the adapter of round 5"):
        folder.load_adapter(5, LAYOUT)
