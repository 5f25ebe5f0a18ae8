"""The record of steps taken, over kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client.spending import Spending
from privacy.errors import BudgetError


def charge(spending: Spending, number: int, *, steps: int = 2, repeatable: bool = False) -> None:
    spending.charge(round_number=number, steps=steps, limit=5, repeatable=repeatable)


def test_charges_last(tmp_path: Path) -> None:
    path = tmp_path / "home" / "steps.jsonl"
    charge(Spending(path), 1)
    charge(Spending(path), 2)
    assert Spending(path).steps == 4


def test_more_than_planned_is_refused_and_not_charged(tmp_path: Path) -> None:
    spending = Spending(tmp_path / "steps.jsonl")
    charge(spending, 1)
    charge(spending, 2)
    with pytest.raises(BudgetError, match="planned for 5 steps and has taken 4"):
        charge(spending, 3)
    assert spending.steps == Spending(tmp_path / "steps.jsonl").steps == 4
    charge(spending, 3, steps=1)


def test_a_round_taken_again_costs_again_but_for_keyed_noise(tmp_path: Path) -> None:
    spending = Spending(tmp_path / "steps.jsonl")
    charge(spending, 1, repeatable=True)
    charge(spending, 1, repeatable=True)
    assert spending.steps == 2
    charge(spending, 1)
    assert spending.steps == 4


@pytest.mark.parametrize("torn", ['{"round": 2', '{"round": 2, "steps": 2}'])
def test_a_line_cut_off_by_a_kill_does_not_count(tmp_path: Path, torn: str) -> None:
    """The line's end is flushed before noise is drawn: without it, nothing was released."""
    path = tmp_path / "steps.jsonl"
    charge(Spending(path), 1)
    path.write_text(path.read_text() + torn)
    assert Spending(path).steps == 2
    charge(Spending(path), 2)
    assert Spending(path).steps == 4
    assert path.read_text().count("\n") == 2


def test_a_first_line_cut_off_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"rou')
    charge(Spending(path), 1)
    assert Spending(path).steps == 2


def test_processes_that_charge_at_once_lose_nothing(tmp_path: Path) -> None:
    """Eight processes, each charging until it is refused: the limit holds and every charge is there."""
    path = tmp_path / "steps.jsonl"
    code = (
        "import sys; from pathlib import Path\n"
        "from client.spending import Spending; from privacy.errors import BudgetError\n"
        "done, spending = 0, Spending(Path(sys.argv[1]))\n"
        "try:\n"
        "    for number in range(1000):\n"
        "        spending.charge(round_number=number, steps=1, limit=100, repeatable=False)\n"
        "        done += 1\n"
        "except BudgetError: print(done)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(8)]
    done = [int(worker.communicate()[0]) for worker in workers]
    assert sum(done) == Spending(path).steps == 100
    assert path.read_text().count("\n") == 100
