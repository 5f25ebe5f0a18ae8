"""A process finds the plan that would be found here; whatever befalls it is one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.planning import PLANNING, PlanningProcess, plan_here
from privacy.errors import PlanError, RunError
from privacy.ledger.entries import to_table
from protocol.job.adapter_section import AdapterSection
from protocol.job.job import DataSection, Job, ModelSection
from protocol.job.manifest import Manifest
from tests.needs import needs_linux

EXAMPLES, SIZE, ROUNDS = 2000, 5000, 10
CONSTANT = (
    "the site cannot plan this job within its limits: ask for fewer steps, or for a smaller "
    "privacy.epsilon; the site's own log says more"
)
SITE_LEVEL = {"unit": "site", "mechanism": "skellam", "epsilon": 8.0}
CENTRAL = {"unit": "site", "noise": "central", "epsilon": 8.0}


def manifest(run: str = "run", **sections: Any) -> Manifest:
    job = Job.model_validate(
        {
            "model": ModelSection(source="model"),
            "adapter": AdapterSection(target_modules=["query"]),
            "data": DataSection(source="data.csv", label="label", labels=["no", "yes"]),
            **sections,
        }
    )
    return Manifest(
        run=run, job=job, cohort=5, labels=("no", "yes"), model_digest="0" * 64, layout_digest="1" * 64
    )


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


def answering(asked: Manifest, *, marks: Path | None = None) -> tuple[str, ...]:
    """A process that says what the real one would, at once; ``marks`` is a file to which it adds a line."""
    try:
        answer = to_table(plan_here(asked, EXAMPLES, SIZE, asked.job.training.rounds))
    except PlanError as error:
        answer = {"refused": str(error)}
    mark = f"open({str(marks)!r}, 'a').write('asked\\n'); " if marks else ""
    return python(f"{mark}print({json.dumps(answer)!r})")


@pytest.fixture
def counted(tmp_path: Path) -> Callable[..., tuple[PlanningProcess, Path]]:
    """A planner of one manifest, and a file to which each of its processes adds a line."""
    marks = tmp_path / "marks"
    marks.touch()

    def make(asked: Manifest, *, kept: Path) -> tuple[PlanningProcess, Path]:
        command = answering(asked, marks=marks)
        return PlanningProcess(seconds=120, mib=1024, kept=kept, command=command), marks

    return make


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize(
    "asked",
    [
        manifest(training={"rounds": 2, "batch_size": 64}),
        manifest(privacy={"mechanism": "laplace", "delta": 1e-6}),
        manifest(privacy=SITE_LEVEL),
        manifest(privacy=CENTRAL),
        manifest(strategy={"name": "ffa"}, privacy={"noise_correlation": "auto"}),
    ],
    ids=["gaussian", "laplace", "skellam", "central", "correlated"],
)
def test_a_process_finds_the_plan_that_is_found_here(asked: Manifest) -> None:
    planner = PlanningProcess(seconds=120, mib=1024)
    rounds = asked.job.training.rounds
    assert planner(asked, EXAMPLES, SIZE, rounds) == plan_here(asked, EXAMPLES, SIZE, rounds)


def test_a_plan_of_other_bands_than_were_asked_for_is_refused() -> None:
    wanted = {"strategy": {"name": "ffa"}, "training": {"rounds": 6}}
    asked, other, none = (
        manifest(**wanted, privacy=privacy)
        for privacy in (
            {"noise_correlation": "banded", "bands": 2},
            {"noise_correlation": "banded", "bands": 3},
            {},
        )
    )
    for found in (other, none):
        with pytest.raises(RunError, match="cannot plan this job"):
            PlanningProcess(seconds=120, mib=1024, command=answering(found))(asked, EXAMPLES, SIZE, 6)
    planner = PlanningProcess(seconds=120, mib=1024, command=answering(asked))
    assert planner(asked, EXAMPLES, SIZE, 6).training.bands == 2


def test_what_no_plan_fits_is_said_as_here() -> None:
    asked = manifest(training={"batch_size": 2001})
    with pytest.raises(PlanError) as here:
        plan_here(asked, EXAMPLES, SIZE, ROUNDS)
    with pytest.raises(PlanError) as there:
        PlanningProcess(seconds=120, mib=1024)(asked, EXAMPLES, SIZE, ROUNDS)
    assert str(there.value) == str(here.value)


def test_without_noise_nothing_is_asked() -> None:
    planner = PlanningProcess(seconds=120, mib=1024, command=python("raise SystemExit(1)"))
    silent = manifest(privacy={"mechanism": "none"})
    assert planner(silent, EXAMPLES, SIZE, ROUNDS) == plan_here(silent, EXAMPLES, SIZE, ROUNDS)


ANSWERS = {
    "it fails": "raise SystemExit(3)",
    "it is killed": "import os; os.kill(os.getpid(), 9)",
    "it hangs": "while True: pass",
    "it says nothing": "",
    "it says no JSON": "print('{')",
    "it says no table": "print('[1]')",
    "it nests": "print('[' * 100_000)",
    "it names no plan": "print('{}')",
    "it refuses in no words": "print('{\"refused\": 1}')",
    "it writes to the error stream": "import sys; sys.stderr.write('a secret ' * 9999); sys.exit(1)",
}


@pytest.mark.parametrize("program", ANSWERS.values(), ids=ANSWERS)
def test_whatever_befalls_the_process_is_one_sentence(program: str) -> None:
    planner = PlanningProcess(seconds=1.0, mib=1024, command=python(program))
    with pytest.raises(RunError) as error:
        planner(manifest(), EXAMPLES, SIZE, ROUNDS)
    assert str(error.value) == CONSTANT


def test_a_process_that_is_not_there_is_the_same_sentence(tmp_path: Path) -> None:
    planner = PlanningProcess(seconds=1.0, mib=1024, command=[str(tmp_path / "none")])
    with pytest.raises(RunError) as error:
        planner(manifest(), EXAMPLES, SIZE, ROUNDS)
    assert str(error.value) == CONSTANT


@needs_linux
def test_memory_is_limited() -> None:
    with pytest.raises(RunError) as error:
        PlanningProcess(seconds=120, mib=16)(manifest(), EXAMPLES, SIZE, ROUNDS)
    assert str(error.value) == CONSTANT


@pytest.mark.parametrize(
    "other",
    [
        {"privacy": {"epsilon": 30.0}},
        {"privacy": {"delta": 1e-9}},
        {"privacy": {"clipping_norm": 0.125}},
        {"privacy": {"mechanism": "laplace"}},
        {"training": {"rounds": 1}},
    ],
    ids=["epsilon", "delta", "clipping_norm", "mechanism", "rounds"],
)
def test_a_plan_that_the_job_did_not_ask_for_is_not_taken(tmp_path: Path, other: dict[str, Any]) -> None:
    """Not even from the file that it keeps: it is made anew."""
    loud, quiet = manifest(), manifest(**other)
    kept = tmp_path / "plans.json"
    options: dict[str, Any] = {"seconds": 120, "mib": 1024, "kept": kept}
    PlanningProcess(**options, command=answering(quiet))(quiet, EXAMPLES, SIZE, quiet.job.training.rounds)
    ((_, plans),) = json.loads(kept.read_bytes()).items()
    PlanningProcess(**options, command=answering(loud))(loud, EXAMPLES, SIZE, ROUNDS)
    swapped = dict.fromkeys(json.loads(kept.read_bytes()), plans)
    kept.write_text(json.dumps(swapped))
    again = PlanningProcess(**options, command=answering(loud))
    assert again(loud, EXAMPLES, SIZE, ROUNDS) == plan_here(loud, EXAMPLES, SIZE, ROUNDS)
    wrong = PlanningProcess(seconds=120, mib=1024, command=python(f"print({json.dumps(plans)!r})"))
    with pytest.raises(RunError):
        wrong(loud, EXAMPLES, SIZE, ROUNDS)


def test_a_plan_is_made_once(counted: Callable[..., Any], tmp_path: Path) -> None:
    """For all runs that agree in their numbers, and for the next process of the site too."""
    kept = tmp_path / "plans.json"
    planner, marks = counted(manifest(), kept=kept)
    first = planner(manifest(), EXAMPLES, SIZE, ROUNDS)
    assert planner(manifest("another"), EXAMPLES, SIZE, ROUNDS) == first
    after, _ = counted(manifest(), kept=kept)
    assert after(manifest(), EXAMPLES, SIZE, ROUNDS) == first
    assert marks.read_text() == "asked\n"
    for change in ({"examples": EXAMPLES + 1}, {"update_size": SIZE + 1}):
        planner(manifest(), **{"examples": EXAMPLES, "update_size": SIZE, "rounds": ROUNDS, **change})
    planner(replace(manifest(), cohort=6), EXAMPLES, SIZE, ROUNDS)
    assert marks.read_text() == "asked\n" * 4


def test_a_refusal_is_remembered_and_not_written_down(counted: Callable[..., Any], tmp_path: Path) -> None:
    kept = tmp_path / "plans.json"
    asked = manifest(training={"batch_size": 2001})
    planner, marks = counted(asked, kept=kept)
    for _ in range(3):
        with pytest.raises(PlanError, match="batch_size"):
            planner(asked, EXAMPLES, SIZE, ROUNDS)
    assert marks.read_text() == "asked\n"
    assert not kept.exists()


def test_few_plans_are_kept(tmp_path: Path) -> None:
    kept = tmp_path / "plans.json"
    planner = PlanningProcess(seconds=120, mib=1024, kept=kept, command=python("print('{}')"))
    for examples in range(200):
        planner._keep(f"key {examples}", {"plan": examples})
    assert len(json.loads(kept.read_bytes())) == 64


@pytest.mark.parametrize("content", [b"", b"[", b"[1]", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_costs_a_plan_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    kept = tmp_path / "plans.json"
    kept.write_bytes(content)
    planner = PlanningProcess(seconds=120, mib=1024, kept=kept, command=answering(manifest()))
    assert planner(manifest(), EXAMPLES, SIZE, ROUNDS) == plan_here(manifest(), EXAMPLES, SIZE, ROUNDS)


def test_the_process_inherits_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONFIDE_SECRET", "swordfish")
    held = (tmp_path / "identity.key").open("w")
    seen = tmp_path / "seen"
    program = (
        "import json, os; files = '/proc/self/fd'; "
        "found = os.listdir(files) if os.path.exists(files) else []; "
        f"open({str(seen)!r}, 'w').write(json.dumps([dict(os.environ), found, os.getcwd()]))"
    )
    with held, pytest.raises(RunError):
        PlanningProcess(seconds=60, mib=1024, command=python(program))(manifest(), EXAMPLES, SIZE, ROUNDS)
    environment, files, folder = json.loads(seen.read_text())
    assert "swordfish" not in environment.values()
    assert len(files) <= 4  # its three streams, and the folder that it lists
    assert folder == "/"
    assert PLANNING[0] == sys.executable
