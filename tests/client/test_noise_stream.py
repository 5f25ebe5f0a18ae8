"""A run's noise seed: durable before it is used, never replaced, and gone when nobody needs it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.correlated_steps import CorrelatedSteps
from client.noise_stream import NoiseStream
from privacy.accounting.banded_plan import BandedPlan
from privacy.errors import RunError
from privacy.ledger.receipt import Receipt
from privacy.mechanisms.banded_noise import ONE
from privacy.mechanisms.mechanism import Mechanism

PLAN = BandedPlan(
    mechanism=Mechanism(name="gaussian", multiplier=1.0),
    clipping_norm=1.0,
    sampling_rate=0.3,
    steps=6,
    delta=1e-5,
    coefficients=(ONE, 3000, 2000),
)
DIGESTS = tuple(hashlib.sha256(bytes([number])).digest() for number in range(90))


def stream(path: Path, **changes: Any) -> NoiseStream:
    return NoiseStream(path, **{"plan": PLAN, "digests": DIGESTS} | changes)


def receipt(*, taken: int, steps: int = 2, head: str = "h") -> Receipt:
    return Receipt(
        site="north",
        run="run",
        manifest="m",
        round=1,
        plan=PLAN,
        steps=steps,
        taken=taken,
        epsilon=1.0,
        budget=1.0,
        head=head,
    )


def opened(path: Path, *, taken: int = 2, head: str = "h", **changes: Any) -> CorrelatedSteps:
    """The steps after so many were charged, two of them for a round."""
    found = stream(path, **changes)
    found.open(taken=taken - 2)
    return found.steps(receipt(taken=taken, head=head))


def test_another_process_goes_on_with_the_same_noise_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "local" / "run.seed"
    first, later = opened(path), opened(path, taken=4)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert (first.first, later.first) == (0, 2)
    assert (first.groups == later.groups).all()
    assert (first.noise.at(1, (4,)) == later.noise.at(1, (4,))).all()
    assert [one.name for one in path.parent.iterdir()] == ["run.seed"]


def test_examples_keep_their_groups_in_another_order(tmp_path: Path) -> None:
    """An example that changed its group could be drawn twice within as many steps as there are bands."""
    order = np.random.default_rng(0).permutation(len(DIGESTS))
    there = opened(tmp_path / "run.seed")
    moved = opened(tmp_path / "run.seed", digests=tuple(DIGESTS[place] for place in order))
    assert (moved.groups == there.groups[order]).all()
    # A hash deals 90 examples to 3 groups: 30 each, with a deviation of 4.5.
    assert np.bincount(there.groups).tolist() == pytest.approx([30, 30, 30], abs=27)
    assert (opened(tmp_path / "another.seed").groups != there.groups).any()


def test_a_step_draws_from_its_own_group_alone(tmp_path: Path) -> None:
    opened(tmp_path / "run.seed")
    steps = opened(tmp_path / "run.seed", taken=5)
    for step in range(4):
        drawn = steps.drawn_in(step, np.arange(len(DIGESTS)))
        assert set(steps.groups[drawn]) == {(3 + step) % 3}
    parts = [set(steps.drawn_in(step, np.arange(len(DIGESTS)))) for step in range(3)]
    assert set().union(*parts) == set(range(len(DIGESTS)))


@pytest.mark.parametrize("with_its_charge", [False, True])
def test_a_home_that_is_put_back_uses_no_noise_again(tmp_path: Path, *, with_its_charge: bool) -> None:
    """Its ledger counts as it did before, and charges anew; the seed's file may be of a later moment."""
    path = tmp_path / "run.seed"
    opened(path, head="first")
    copy = path.read_bytes()
    gone = opened(path, taken=4, head="second")
    before, there = gone.noise.at(1, (4,)), gone.noise.at(2, (4,))
    if not with_its_charge:
        path.write_bytes(copy)
    again = opened(path, taken=4, head="another")
    assert again.first == gone.first == 2
    assert (again.noise.at(1, (4,)) == before).all()
    assert (again.noise.at(2, (4,)) != there).any()
    # And who goes on from there takes back what the second time added.
    later = opened(path, taken=6, head="third")
    assert (later.noise.at(3, (4,)) == again.noise.at(3, (4,))).all()


def test_a_seed_that_is_lost_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.seed"
    opened(path)
    path.unlink()
    with pytest.raises(RunError, match="is lost, and steps=2 of the run were charged"):
        opened(path, taken=4)
    assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"seed":"00"}', b'{"seed":1}', b"\xff", b"[" * 9999]
)
@pytest.mark.parametrize("taken", [2, 4])
def test_a_seed_that_is_damaged_is_not_replaced(tmp_path: Path, content: bytes, taken: int) -> None:
    path = tmp_path / "run.seed"
    path.write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        opened(path, taken=taken)
    assert path.read_bytes() == content


def test_of_two_processes_that_begin_at_once_one_makes_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.seed"
    link = os.link
    others: list[CorrelatedSteps] = []

    def second_comes_first(own: Path, there: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        others.append(opened(path))
        link(own, there)

    monkeypatch.setattr(os, "link", second_comes_first)
    mine = opened(path)
    assert (mine.noise.at(0, (4,)) == others[0].noise.at(0, (4,))).all()


@pytest.mark.parametrize("at", range(6))
def test_a_kill_at_any_write_leaves_no_half_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """What is there after it is found whole, or made: nothing was charged under another one."""
    path, left = tmp_path / "local" / "run.seed", at

    def deadly(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
            return whole(*args, **named)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "link"), (Path, "rename"), (Path, "mkdir")):
            patch.setattr(owner, name, deadly(getattr(owner, name)))
        with pytest.raises(KeyboardInterrupt):
            opened(path)
    first = opened(path)
    assert (opened(path, taken=4).groups == first.groups).all()


def test_the_seed_goes_with_the_plans_last_step(tmp_path: Path) -> None:
    path = tmp_path / "run.seed"
    found = stream(path)
    found.open(taken=0)
    found.forget_after(receipt(taken=4))
    assert path.exists()
    found.forget_after(receipt(taken=6))
    assert not path.exists()
    # Asked again, it is the ledger that says that no step is left.
    found.open(taken=6)
    assert not path.exists()
    with pytest.raises(RunError, match="expected the seed"):
        found.steps(receipt(taken=8))


def test_a_keyed_seed_has_no_file_and_stays(tmp_path: Path) -> None:
    found = stream(tmp_path / "run.seed", keyed=bytes(32))
    for taken in (0, 6):
        found.open(taken=taken)
        found.forget_after(receipt(taken=6))
        assert found.steps(receipt(taken=2)).first == 0
    assert not list(tmp_path.iterdir())


def test_one_band_more_is_another_grouping(tmp_path: Path) -> None:
    more = replace(PLAN, coefficients=(ONE, 3000, 2000, 1000))
    assert opened(tmp_path / "run.seed", plan=more).groups.max() == 3
