"""A coordinator with the pinned key asks for numbers that once kept an agent's only thread for ever."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.custody.home import Home
from client.custody.policy import BudgetSection, Policy, RulesSection
from client.planning import PlanningProcess, plan_here
from client.site import Site
from privacy.accounting.base_plan import BasePlan
from privacy.accounting.composition import Losses
from privacy.accounting.plan import Plan
from privacy.accounting.sampled_plan import make_sampled_plan
from privacy.canonical import canonical_json
from privacy.errors import PlanError
from protocol.job.job import Job
from protocol.job.training_section import TOTAL_STEPS_MAX
from protocol.messages.confide_pb2 import Join, Reply, Request
from simulation.simulated_federation import World
from tasks.registry import find_task, task_names
from tests import tiny
from tests.client.sites import charges, join, train

# Whoever plans within this has bounded its memory; what it loads takes 400 of it.
MIB, SECONDS = 640, 300.0

# What once took 90 s and 1.4 GB, what took 74 s and 7 GB, and what never ended.
HOSTILE = {
    "much epsilon, rare examples": {
        "training": {"rounds": 10_000, "batch_size": 1},
        "privacy": {"epsilon": 100.0},
    },
    "as many steps as there may be": {
        "training": {"rounds": 100_000, "local_steps": 10, "batch_size": 1},
        "privacy": {"delta": 1e-9},
    },
    "delta just below the chance of being drawn": {
        "training": {"rounds": 1, "local_steps": 1, "batch_size": 1},
        "privacy": {"epsilon": 100.0, "delta": 0.0156},
    },
    "delta above the chance of being drawn": {
        "training": {"rounds": 3, "local_steps": 1, "batch_size": 1},
        "privacy": {"epsilon": 1.0, "delta": 0.3},
    },
    "pairs of sums": {
        "privacy": {"unit": "site", "noise": "central", "epsilon": 100.0, "delta": 1e-9},
        "training": {"rounds": 100_000},
    },
}


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


@pytest.fixture
def make(world: World, tmp_path: Path) -> Callable[..., Site]:
    """A site whose policy allows all that a job can say."""

    def site(planner: Any = plan_here, **changes: Any) -> Site:
        rules = RulesSection(
            mechanisms=["gaussian", "laplace", "skellam", "none"],
            central_noise="allowed",
            metrics_epsilon=1000.0,
        )
        Home(tmp_path).write_policy(Policy(budget=BudgetSection(epsilon=1000.0, delta=0.999), rules=rules))
        made = world.site("site-1", home=tmp_path)
        made._planner = planner
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    return site


def hostile(world: World, **changes: Any) -> bytes:
    """A manifest whose job says what no job may, in canonical form all the same."""
    table = json.loads(world.manifest("hostile").content)
    for section, values in changes.items():
        if isinstance(values, dict):
            table["job"][section].update(values)
        else:
            table[section] = values
    physical = table["job"]["training"]
    physical["physical_batch_size"] = min(physical["physical_batch_size"], physical["batch_size"])
    return canonical_json(table)


def ask(site: Site, content: bytes) -> Reply:
    return Reply.FromString(site.answer(Request(join=Join(manifest=content)).SerializeToString()))


def unharmed(site: Site, world: World, home: Path) -> None:
    """Nothing was charged, and whoever asks next is answered."""
    assert charges(home) == []
    manifest = world.manifest("honest")
    assert join(site, manifest).HasField("joined")
    assert train(site, manifest, world).HasField("trained")


@pytest.mark.exhaustive
def test_hostile_numbers_are_answered_within_limits(
    make: Callable[..., Site], world: World, tmp_path: Path
) -> None:
    """The process that plans has its limits; what is said is never that it reached them."""
    site = make(PlanningProcess(seconds=SECONDS, mib=MIB))
    for name, changes in HOSTILE.items():
        reply = ask(site, hostile(world, **changes))
        assert reply.WhichOneof("kind") in ("joined", "refused"), name
        assert "within its limits" not in reply.refused.reason, name
    reply = ask(site, hostile(world, **HOSTILE["delta above the chance of being drawn"]))
    assert "the chance that an example is drawn at all" in reply.refused.reason
    assert "lower privacy.delta" in reply.refused.reason
    unharmed(site, world, tmp_path)


@pytest.mark.parametrize(
    "program", ["while True: pass", "import os; os.kill(os.getpid(), 9)", "[0] * 2**60"]
)
@pytest.mark.process(but=1)
def test_a_site_outlives_the_process_that_plans(
    make: Callable[..., Site], world: World, tmp_path: Path, program: str
) -> None:
    planner = PlanningProcess(seconds=1.0, mib=MIB, command=(sys.executable, "-c", program))
    site = make(planner)
    replies = {ask(site, hostile(world)).SerializeToString() for _ in range(2)}
    assert len(replies) == 1
    assert "cannot plan this job within its limits" in Reply.FromString(replies.pop()).refused.reason
    site._planner = plan_here
    unharmed(site, world, tmp_path)


def numbers(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each number that a job may hold: its section, its key and what its schema says of it.

    Where a section has kinds, each with its own keys, the schema says whose key it is.
    """

    def parts(one: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield one
        kinds = [*one.get("anyOf", []), *one.get("oneOf", [])]
        for inner in [*kinds, *([one["items"]] if "items" in one else [])]:
            yield from parts(inner)

    def defined(reference: dict[str, Any]) -> dict[str, Any]:
        return schema["$defs"][reference["$ref"].rpartition("/")[2]]["properties"]

    for section, reference in schema["properties"].items():
        kinds = [({"kind": one["kind"]["const"]}, one) for one in map(defined, reference.get("oneOf", []))]
        whole = defined(reference) if "$ref" in reference else {section: reference}
        for kind, properties in kinds or [({}, whole)]:
            for key, value in properties.items():
                for part in parts(value):
                    if part.get("type") in ("integer", "number") and "enum" not in part:
                        yield section, key, part | kind
                    if "$ref" in part:
                        for deeper, one in defined(part).items():
                            found = (p for p in parts(one) if p.get("type") == "number")
                            yield from ((section, f"{key}.{deeper}", p) for p in found)


# A task's own keys are in the job's section of data, which does not name them.
TASK_NUMBERS = [
    ("data", key, schema)
    for name in task_names()
    for _, key, schema in numbers(find_task(name).Section.model_json_schema())
]
NUMBERS = [*numbers(Job.model_json_schema()), *TASK_NUMBERS]


@pytest.mark.parametrize(("section", "key", "schema"), NUMBERS, ids=[f"{s}.{k}" for s, k, _ in NUMBERS])
def test_every_number_of_a_job_has_a_floor_and_a_ceiling(
    section: str, key: str, schema: dict[str, Any]
) -> None:
    assert {"minimum", "exclusiveMinimum"} & schema.keys(), (section, key)
    assert {"maximum", "exclusiveMaximum"} & schema.keys(), (section, key)


def test_the_numbers_of_a_job_are_found() -> None:
    found = {f"{section}.{key}" for section, key, _ in NUMBERS}
    assert {"training.rounds", "privacy.epsilon", "seeds.noise", "federation.partition.dirichlet"} <= found
    assert {"adapter.layers_to_transform", "aggregation.threshold", "metrics.epsilon"} <= found
    assert {"data.max_length"} <= found


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many points each composition had, and a mark for each multiplier that was tried."""
    found: dict[str, list[int]] = {"points": [], "step": [], "tried": []}
    compose, after = Losses.epsilon, BasePlan.epsilon_after

    def watch(self: Losses, window: tuple[int, int], **options: Any) -> float:
        found["points"].append(window[1] - window[0] + 1)
        found["step"].append(len(self.masses))
        return compose(self, window, **options)

    def count(self: BasePlan, steps: int) -> float:
        found["tried"].append(1)
        return after(self, steps)

    monkeypatch.setattr(Losses, "epsilon", watch)
    monkeypatch.setattr(BasePlan, "epsilon_after", count)
    return found


def extremes() -> Iterator[Any]:
    for section, key, schema in NUMBERS:
        if "." in key or section not in (
            "training",
            "privacy",
            "aggregation",
            "metrics",
            "federation",
            "compression",
        ):
            continue  # no plan depends on it
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        whole = schema["type"] == "integer"
        beyond = [low - 1, high + 1, 10**30] if whole else [-1.0, 1e300, math.nan, math.inf, -math.inf]
        for value in [low, high, *beyond]:
            kind = {"kind": schema["kind"]} if "kind" in schema else {}
            name = ".".join([section, *kind.values(), key])
            yield pytest.param(section, kind, key, value, id=f"{name}={value}")


@pytest.mark.exhaustive(but=9)
@pytest.mark.parametrize(("section", "kind", "key", "value"), extremes())
def test_every_number_at_its_ends_and_beyond_is_answered_at_a_bounded_cost(
    make: Callable[..., Site],
    world: World,
    tmp_path: Path,
    spent: dict[str, list[int]],
    section: str,
    kind: dict[str, str],
    key: str,
    value: Any,
) -> None:
    try:
        content = hostile(world, **{section: kind | {key: value}})
    except ValueError:  # canonical JSON knows no NaN and no infinity
        content = hostile(world, **{section: kind | {key: 7e77}}).replace(
            b"7e+77", str(value).replace("nan", "NaN").encode()
        )
    site = make()
    reply = ask(site, content)
    assert reply.WhichOneof("kind") in ("joined", "refused")
    # In the search, for the answer, for the policy and for the ledger.
    assert len(spent["tried"]) <= 40
    assert max(spent["points"], default=0) <= 2**18
    assert max(spent["step"], default=0) <= 2**16
    # A manifest that cannot be read begins no ledger.
    assert not (tmp_path / "ledger.db").exists() or charges(tmp_path) == []


@pytest.mark.parametrize("cohort", [0, -1, 10_001, 10**30, 1.5, True, "3", None])
def test_a_cohort_that_no_run_has_is_refused(make: Callable[..., Site], world: World, cohort: Any) -> None:
    assert (
        "expected a cohort of 1 to 10000 sites" in ask(make(), hostile(world, cohort=cohort)).refused.reason
    )


def test_the_steps_of_a_whole_run_are_bounded_together(make: Callable[..., Site], world: World) -> None:
    training = {"rounds": 1001, "local_steps": 1000}
    refused = ask(make(), hostile(world, training=training)).refused
    assert f"rounds · local_steps + personal_steps <= {TOTAL_STEPS_MAX}" in refused.reason


def test_no_search_goes_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where ε is what it is for any noise: each search has a floor, a ceiling and a count."""
    tried: list[float] = []

    def stuck(value: float) -> Callable[[Plan, int], float]:
        def epsilon(plan: Plan, _steps: int) -> float:
            tried.append(plan.mechanism.multiplier)
            return value

        return epsilon

    asked = {
        "mechanism": "gaussian",
        "epsilon": 1.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        "expected_batch_size": 10,
        "examples": 100,
        "steps": 10,
    }
    monkeypatch.setattr(BasePlan, "epsilon_after", stuck(0.0))
    assert make_sampled_plan(**asked).mechanism.multiplier == min(tried)
    assert len(tried) <= 12
    tried.clear()
    monkeypatch.setattr(BasePlan, "epsilon_after", stuck(math.inf))
    with pytest.raises(PlanError, match="no noise multiplier under 10000"):
        make_sampled_plan(**asked)
    assert len(tried) <= 16


def test_a_round_ends_when_the_sites_time_is_over(
    make: Callable[..., Site], world: World, tmp_path: Path
) -> None:
    """Many local steps are asked for; the site's clock says after each how long it took."""
    now = [0.0]
    taken = []

    def between(step: int, _steps: int) -> None:
        taken.append(step)
        now[0] += 3000.0

    site = make(_clock=lambda: now[0], _between=between)
    training = {"rounds": 1, "local_steps": 100, "batch_size": 1}
    content = hostile(world, training=training, privacy={"epsilon": 100.0})
    assert ask(site, content).HasField("joined")
    home = Home(tmp_path)
    (manifest,) = home.manifests()
    refused = train(site, manifest, world).refused
    assert "the round's local steps take longer than this site allows" in refused.reason
    assert "rules.longest_round" in refused.reason
    assert taken == [0, *range(8)]  # once before anything is charged; 21,600 s are over after the eighth
    assert [one.steps for one in charges(tmp_path)] == [100]
    assert "has taken 100;" in train(site, manifest, world).refused.reason
