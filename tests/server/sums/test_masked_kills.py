"""Runs under masks after a kill: what was lost is made again, under numbers that no sum had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runs.run_folder import RunFolder
from tests.server.masked import (
    SITES,
    MaskedPost,
    check_means,
    masked_folder,
    without,
)
from tests.server.scripted import go


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return masked_folder(tmp_path / "run")


@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_killed_round_is_made_again_under_new_numbers(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int, forgetful: bool
) -> None:
    """After its sum was uncovered; the sites keep their secrets, or not."""
    post, finish = MaskedPost(folder), RunFolder.finish_round

    def killed(self: RunFolder, record: Any, *rest: Any) -> None:
        if record.round == number:
            raise KeyboardInterrupt
        finish(self, record, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_round", killed)
        with pytest.raises(KeyboardInterrupt):
            go(folder, post)
    again = MaskedPost(folder, before=post, forgetful=forgetful)
    go(folder, again)
    check_means(folder, again, *[set(SITES)] * 3)
    # Each list of sites had a number of its own, before the kill and after it.
    assert not post.rosters().keys() & again.rosters().keys()
    for rosters in (post.rosters(), again.rosters()):
        assert all(len(lists) == 1 for lists in rosters.values())
    assert len(again.numbers()) == 4 - number
    assert min(again.rosters()) > max(post.rosters())


@pytest.mark.parametrize("calls", range(1, 5))
def test_a_number_that_was_taken_is_never_given_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Killed as soon as it is on disk, and before anyone heard of it."""
    post, take, taken = MaskedPost(folder), RunFolder.take_counter, []

    def killed(self: RunFolder) -> int:
        taken.append(take(self))
        if len(taken) == calls:
            raise KeyboardInterrupt
        return taken[-1]

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "take_counter", killed)
        if calls == 4:
            go(folder, post)  # three sums, each number taken once
        else:
            with pytest.raises(KeyboardInterrupt):
                go(folder, post)
    assert taken == sorted(set(taken))
    again = MaskedPost(folder, before=post)
    go(folder, again)
    assert not set(taken) & again.rosters().keys()
    check_means(folder, again, *[set(SITES)] * 3)


def test_a_kill_between_stages_leaves_no_sum_open_twice(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sites confirmed the old sum and never uncovered it: they deal and mask anew."""
    post = MaskedPost(folder)
    post.before_it["arctic", "unmask", 2] = interrupt
    with pytest.raises(KeyboardInterrupt):
        go(folder, post)
    again = MaskedPost(folder, {("west", "train", 2): None}, before=post)
    go(folder, again)
    check_means(folder, again, set(SITES), without("west"), without("west"))
    old = post.numbers()[-1]
    assert all(request.unmask.number != old for _, request in again.sent)


def interrupt() -> None:
    raise KeyboardInterrupt
