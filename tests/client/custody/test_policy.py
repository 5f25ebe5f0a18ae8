"""A policy refuses just what it says, and names the rule that does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from client.custody.policy import Policy, policy_toml, read_policy
from privacy.errors import PolicyError, PolicyFileError
from privacy.identity import Identity
from protocol.job.manifest import MANIFEST_PURPOSE, Manifest
from tests.server.runs import LAYOUT, make_job

BASE, OTHER_BASE = "ab" * 32, "cd" * 32
COORDINATOR, STRANGER = Identity.generate(), Identity.generate()
BUDGET = {"epsilon": 8.0, "delta": 2e-5, "epsilon_per_run": 3.0}


MASKS = {"aggregation": {"kind": "masks"}}
COUNTED = {"epsilon": 1.0, "labels": True}
SITE_UNIT = MASKS | {"privacy": {"unit": "site", "mechanism": "skellam", "epsilon": 3.0}}
CENTRAL = MASKS | {"privacy": {"unit": "site", "mechanism": "gaussian", "noise": "central", "epsilon": 3.0}}
UNCONFIRMED = {"aggregation": {"confirm": False}}


def masked(*, threshold: int, colluding: int) -> dict[str, Any]:
    return {"aggregation": {"threshold": threshold, "colluding": colluding}}


def make_policy(*, budget: dict[str, Any] | None = None, **rules: Any) -> Policy:
    return Policy.model_validate({"budget": BUDGET | (budget or {}), "rules": rules})


def make_manifest(*, cohort: int = 3, base: str = BASE, **sections: Any) -> Manifest:
    job = make_job(**({"privacy": {"epsilon": 3.0}} | sections))
    return Manifest(
        run="run",
        job=job,
        cohort=cohort,
        labels=("bad", "good"),
        model_digest=base,
        layout_digest=LAYOUT.digest,
    )


def refused_by(policy: Policy, manifest: Manifest, signature: bytes = b"") -> str:
    with pytest.raises(PolicyError) as caught:
        policy.check(manifest, signature)
    assert f"refuses, by {caught.value.rule}: " in str(caught.value)
    return caught.value.rule


# A rule, what keeps it, and what breaks it by the least.
RULES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        "rules.mechanisms",
        {"mechanisms": ["laplace"]},
        {"privacy": {"mechanism": "laplace"}},
        {"privacy": {"mechanism": "gaussian"}},
    ),
    ("rules.mechanisms", {}, {"privacy": {"mechanism": "laplace"}}, {"privacy": {"mechanism": "none"}}),
    (
        "rules.mechanisms",
        {"mechanisms": ["none"]},
        {"privacy": {"mechanism": "none"}},
        {"privacy": {"mechanism": "laplace"}},
    ),
    (
        "budget.epsilon_per_run",
        {},
        {"privacy": {"epsilon": 3.0}},
        {"privacy": {"epsilon": 3.001}},
    ),
    (
        "rules.units",
        {"units": ["site"]},
        SITE_UNIT,
        {"privacy": {"unit": "example"}},
    ),
    ("rules.central_noise", {}, SITE_UNIT, CENTRAL),
    (
        "rules.correlated_noise",
        {},
        {"strategy": {"name": "ffa"}},
        {"strategy": {"name": "ffa"}, "privacy": {"noise_correlation": "banded", "bands": 2}},
    ),
    ("rules.least_cohort", {"least_cohort": 3}, {"cohort": 3}, {"cohort": 2}),
    *(
        ("rules.secure_aggregation", {"secure_aggregation": rule}, kept, broken)
        for rule, kept, broken in [
            ("required", MASKS, {"aggregation": {"kind": "none"}}),
            ("required", MASKS, {"aggregation": {"kind": "homomorphic"}}),
            ("required", MASKS, UNCONFIRMED),
            ("encrypted", UNCONFIRMED, {"aggregation": {"kind": "none"}}),
            ("encrypted", {"aggregation": {"kind": "homomorphic"}}, {"aggregation": {"kind": "none"}}),
        ]
    ),
    *(
        (
            "rules.colluding_sites",
            {"colluding_sites": colluding},
            {"cohort": cohort} | masked(threshold=least, colluding=colluding),
            {"cohort": cohort} | masked(threshold=least - 1, colluding=colluding),
        )
        # The least t with 2t > n + c, written out.
        for cohort, colluding, least in [
            (4, 0, 3),
            (5, 0, 3),
            (10, 0, 6),
            (10, 1, 6),
            (10, 2, 7),
            (5, 3, 5),
        ]
    ),
    (
        "rules.colluding_sites",
        {"colluding_sites": 1},
        {"cohort": 5} | masked(threshold=4, colluding=1),
        {"cohort": 5, "aggregation": {"kind": "homomorphic"}},
    ),
    # Noise in shares, and who masks with whom, are planned for as many as the job says.
    *(
        (
            "rules.colluding_sites",
            {"colluding_sites": colluding},
            {"cohort": 10} | masked(threshold=10, colluding=planned) | unit,
            {"cohort": 10} | masked(threshold=10, colluding=colluding - 1) | unit,
        )
        for colluding, planned in [(1, 1), (1, 2), (3, 3)]
        for unit in ({}, {"privacy": SITE_UNIT["privacy"]})
    ),
    ("rules.models", {"models": [OTHER_BASE, BASE]}, {"base": BASE}, {"base": "ef" * 32}),
    (
        "rules.tasks",
        {"tasks": ["sequence-classification"]},
        {},
        {"task": "causal-lm", "data": {"label": None, "labels": None}},
    ),
    (
        "rules.metrics_epsilon",
        {"metrics_epsilon": 0.5},
        {"privacy": {"epsilon": 2.0}, "metrics": {"epsilon": 0.5}},
        {"privacy": {"epsilon": 2.0}, "metrics": {"epsilon": 0.51}},
    ),
    (
        "rules.metrics_epsilon",
        {},
        {"privacy": {"epsilon": 2.0}, "metrics": {"epsilon": 0.0}},
        {"privacy": {"epsilon": 2.0}, "metrics": {"epsilon": 0.01}},
    ),
    *(
        (
            rule,
            {"statistics_epsilon": 1.0} | rules,
            {"statistics": COUNTED} | kept,
            {"statistics": COUNTED} | broken,
        )
        for rule, rules, kept, broken in (
            ("rules.statistics_epsilon", {}, {}, {"statistics": COUNTED | {"epsilon": 1.01}}),
            ("rules.statistics_epsilon", {"statistics_epsilon": 0.0}, {"statistics": None}, {}),
            (
                "budget.epsilon_per_run",
                {"statistics_epsilon": 4.0},
                {},
                {"statistics": COUNTED | {"epsilon": 3.01}},
            ),
            ("rules.least_cohort", {"least_cohort": 3}, {}, {"cohort": 2}),
            (
                "rules.secure_aggregation",
                {"secure_aggregation": "required"},
                MASKS,
                {"aggregation": {"kind": "none"}},
            ),
            (
                "rules.tasks",
                {"tasks": ["causal-lm"]},
                {"statistics": None, "task": "causal-lm", "data": {"label": None, "labels": None}},
                {},
            ),
        )
    ),
    (
        "budget.epsilon_per_run",
        {"metrics_epsilon": 2.0},
        {"privacy": {"epsilon": 2.0}, "metrics": {"epsilon": 1.0}},
        {"privacy": {"epsilon": 2.0}, "metrics": {"epsilon": 1.01}},
    ),
]


@pytest.mark.parametrize(("rule", "rules", "kept", "broken"), RULES)
def test_each_rule_refuses_what_it_says_and_nothing_less(
    rule: str, rules: dict[str, Any], kept: dict[str, Any], broken: dict[str, Any]
) -> None:
    policy = make_policy(**rules)
    assert refused_by(policy, make_manifest(**broken)) == rule
    policy.check(make_manifest(**kept), b"")


def test_without_a_limit_a_run_may_ask_for_the_whole_budget() -> None:
    policy = Policy.model_validate({"budget": {"epsilon": 8.0, "delta": 2e-5}})
    assert refused_by(policy, make_manifest(privacy={"epsilon": 8.5})) == "budget.epsilon_per_run"
    policy.check(make_manifest(privacy={"epsilon": 8.0}), b"")


def test_a_custodian_may_trust_the_coordinator_with_the_sum() -> None:
    make_policy(central_noise="allowed").check(make_manifest(**CENTRAL), b"")


def test_a_custodian_may_let_a_runs_seed_lie_in_the_home() -> None:
    privacy = {"noise_correlation": "banded", "bands": 2}
    make_policy(correlated_noise="allowed").check(
        make_manifest(strategy={"name": "ffa"}, privacy=privacy), b""
    )


def test_an_epsilon_without_noise_means_nothing_and_is_not_compared() -> None:
    policy = make_policy(mechanisms=["none"])
    policy.check(make_manifest(privacy={"mechanism": "none", "epsilon": 90.0}), b"")


def test_where_secure_aggregation_is_optional_anything_goes_that_keeps_its_own_promise() -> None:
    policy = make_policy(secure_aggregation="optional", colluding_sites=2)
    policy.check(make_manifest(cohort=3, aggregation={"kind": "none"}), b"")
    unconfirmed = {"aggregation": {"confirm": False, "colluding": 2}}
    policy.check(make_manifest(cohort=9, **unconfirmed), b"")
    assert refused_by(policy, make_manifest(cohort=3, **unconfirmed)) == "rules.colluding_sites"


@settings(max_examples=60, deadline=None)
@given(cohort=st.integers(2, 12), colluding=st.integers(0, 4), threshold=st.integers(2, 12))
def test_a_masked_run_passes_just_where_no_update_can_be_uncovered(
    cohort: int, colluding: int, threshold: int
) -> None:
    """The attack itself: honest sites are told two stories, and those who collude answer to both.

    A single honest site needs no attack: the sum without the others' updates is its own.
    """
    policy = make_policy(colluding_sites=colluding)
    manifest = make_manifest(cohort=cohort, **masked(threshold=threshold, colluding=colluding))
    honest = cohort - colluding
    splits = (sorted((first, honest - first)) for first in range(honest + 1))
    works = honest < 2 or any(fewer + colluding >= threshold for fewer, _ in splits)
    if works:
        assert refused_by(policy, manifest) == "rules.colluding_sites"
    else:
        policy.check(manifest, b"")


def test_masks_of_too_few_sites_are_none() -> None:
    for cohort, colluding in [(1, 0), (2, 1), (3, 2), (3, 5)]:
        policy = make_policy(colluding_sites=colluding)
        with pytest.raises(PolicyError, match=f"expected {colluding + 2} sites at least"):
            policy.check(make_manifest(cohort=cohort, **masked(threshold=2, colluding=colluding)), b"")
    make_policy(colluding_sites=1).check(make_manifest(cohort=3, **masked(threshold=3, colluding=1)), b"")


@pytest.mark.parametrize("planned", range(3))
def test_more_that_may_collude_than_a_run_is_planned_for_are_said_with_both_numbers(planned: int) -> None:
    manifest = make_manifest(cohort=10, **masked(threshold=10, colluding=planned))
    with pytest.raises(PolicyError, match=rf"aggregation\.colluding=3 at least, got {planned}$"):
        make_policy(colluding_sites=3).check(manifest, b"")
    make_policy(colluding_sites=planned).check(manifest, b"")


def test_the_threshold_that_a_job_leaves_out_will_do_where_nobody_colludes() -> None:
    for cohort in range(2, 40):
        make_policy(secure_aggregation="required").check(make_manifest(cohort=cohort, **MASKS), b"")


@pytest.mark.parametrize("rule", ["mechanisms", "units", "models", "tasks"])
def test_a_list_without_members_allows_nothing(rule: str) -> None:
    assert refused_by(make_policy(**{rule: []}), make_manifest()) == f"rules.{rule}"


def test_unset_lists_allow_anything() -> None:
    policy = Policy.model_validate({"budget": {"epsilon": 8.0, "delta": 2e-5}})
    for manifest in (
        make_manifest(),
        make_manifest(base=OTHER_BASE),
        make_manifest(task="causal-lm", data={"label": None, "labels": None}),
        make_manifest(cohort=1, aggregation={"kind": "none"}),
        make_manifest(**SITE_UNIT),
    ):
        policy.check(manifest, b"signed by nobody")


def test_only_the_coordinators_own_signature_under_this_manifest_will_do() -> None:
    policy, manifest = make_policy(coordinator=COORDINATOR.public.hex()), make_manifest()
    for signature in (
        b"",
        STRANGER.sign(MANIFEST_PURPOSE, manifest.content),
        COORDINATOR.sign("receipt", manifest.content),
        COORDINATOR.sign(MANIFEST_PURPOSE, replace(manifest, run="other").content),
        COORDINATOR.sign(MANIFEST_PURPOSE, manifest.content)[:-1],
    ):
        assert refused_by(policy, manifest, signature) == "rules.coordinator"
    policy.check(manifest, COORDINATOR.sign(MANIFEST_PURPOSE, manifest.content))


def test_of_several_broken_rules_the_first_is_named() -> None:
    """In the order of docs/policy.md, after the coordinator: a stranger learns no rule but that one."""
    broken: dict[str, Any] = {
        "privacy": {"epsilon": 9.0},
        "cohort": 2,
        "aggregation": {"kind": "none"},
        "base": OTHER_BASE,
        "task": "causal-lm",
        "data": {"label": None, "labels": None},
        "metrics": {"epsilon": 2.0},
    }
    rules: dict[str, Any] = {
        "coordinator": COORDINATOR.public.hex(),
        "mechanisms": ["laplace"],
        "units": ["site"],
        "least_cohort": 3,
        "secure_aggregation": "required",
        "models": [BASE],
        "tasks": ["sequence-classification"],
    }
    manifest = make_manifest(**broken)
    named = []
    for _ in range(10):
        rule = refused_by(make_policy(**rules), manifest)
        named.append(rule)
        if rule == "budget.epsilon_per_run":
            broken["privacy"] = {"epsilon": 1.0}
            manifest = make_manifest(**broken)
        elif rule == "rules.secure_aggregation":
            broken |= {"aggregation": {"threshold": 2}}
            rules["colluding_sites"] = 2
            manifest = make_manifest(**broken)
        elif rule != "rules.metrics_epsilon":
            del rules[rule.removeprefix("rules.")]
    assert named == [
        "rules.coordinator",
        "rules.mechanisms",
        "rules.units",
        "budget.epsilon_per_run",
        "rules.least_cohort",
        "rules.secure_aggregation",
        "rules.colluding_sites",
        "rules.models",
        "rules.tasks",
        "rules.metrics_epsilon",
    ]


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["budget: missing"]),
    ({"budget": {}}, ["budget.epsilon: missing", "budget.delta: missing"]),
    ({"budget": BUDGET | {"epsilon": 0.0}}, ["budget.epsilon: expected greater than 0"]),
    ({"budget": BUDGET | {"epsilon": -1.0}}, ["budget.epsilon: expected greater than 0"]),
    ({"budget": BUDGET | {"epsilon": float("nan")}}, ["budget.epsilon: "]),
    ({"budget": BUDGET | {"epsilon": float("inf")}}, ["budget.epsilon: expected less than"]),
    ({"budget": BUDGET | {"epsilon": True}}, ["budget.epsilon: expected a valid number"]),
    ({"budget": BUDGET | {"delta": 0.0}}, ["budget.delta: expected greater than 0"]),
    ({"budget": BUDGET | {"delta": 1.0}}, ["budget.delta: expected less than 1"]),
    ({"budget": BUDGET | {"delta": "tiny"}}, ["budget.delta: expected a valid number, got 'tiny'"]),
    (
        {"budget": BUDGET | {"epsilon_per_run": 8.5}},
        ["budget.epsilon_per_run=8.5 is more than epsilon=8"],
    ),
    ({"budget": BUDGET | {"order": 1}}, ["budget.order: expected greater than or equal to 2, got 1"]),
    ({"budget": BUDGET | {"order": 2.5}}, ["budget.order: expected a valid integer, got 2.5"]),
    ({"budget": BUDGET, "rule": {}}, ["rule: unknown key"]),
    (
        {"budget": BUDGET, "rules": {"least_cohorts": 3, "approval": "never"}},
        [
            "rules.approval: expected 'automatic' or 'manual', got 'never'",
            "rules.least_cohorts: unknown key",
        ],
    ),
    ({"budget": BUDGET, "rules": {"least_cohort": 0}}, ["rules.least_cohort: expected greater"]),
    ({"budget": BUDGET, "rules": {"least_cohort": True}}, ["rules.least_cohort: expected a valid integer"]),
    ({"budget": BUDGET, "rules": {"mechanisms": "gaussian"}}, ["rules.mechanisms: expected a valid list"]),
    ({"budget": BUDGET, "rules": {"mechanisms": ["gauss"]}}, ["rules.mechanisms.0: expected 'gaussian'"]),
    (
        {"budget": BUDGET, "rules": {"units": ["user"]}},
        ["rules.units.0: expected 'example', 'group' or 'site'"],
    ),
    (
        {"budget": BUDGET, "rules": {"secure_aggregation": "masks"}},
        ["rules.secure_aggregation: expected 'r"],
    ),
    ({"budget": BUDGET, "rules": {"tasks": ["os"]}}, ["rules.tasks: expected some of sequence-cl"]),
    ({"budget": BUDGET, "rules": {"colluding_sites": -1}}, ["rules.colluding_sites: expected greater"]),
    ({"budget": BUDGET, "rules": {"coordinator": "AB" * 32}}, ["rules.coordinator: expected to match"]),
    ({"budget": BUDGET, "rules": {"models": ["ab"]}}, ["rules.models.0: expected to match"]),
    (
        {"budget": BUDGET, "rules": {"base_models": []}},
        ["rules.base_models: unknown key (expected one that docs/policy.md lists; did you mean 'models'?)"],
    ),
    ({"budget": BUDGET, "rules": {"metrics_epsilon": -0.1}}, ["rules.metrics_epsilon: expected greater"]),
]


@pytest.mark.parametrize(("table", "lines"), WRONG)
def test_each_wrong_key_has_one_line_that_names_it(
    tmp_path: Path, table: dict[str, Any], lines: list[str]
) -> None:
    path = tmp_path / "site.toml"
    path.write_text(tomli_w.dumps(table))
    with pytest.raises(PolicyFileError) as caught:
        read_policy(path)
    found = str(caught.value).splitlines()
    assert len(found) == len(lines)
    for line, beginning in zip(found, lines, strict=True):
        assert line.startswith(beginning)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no policy at"),
        (b"[budget\n", "cannot read the policy"),
        (b"epsilon = \xff", "cannot read the policy"),
        (b"", "budget: missing"),
    ],
)
def test_a_file_that_is_no_policy_is_said_to_be_none(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "site.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PolicyFileError, match=words) as caught:
        read_policy(path)
    assert caught.value.exit_code == 2
    with pytest.raises(PolicyFileError, match="cannot read the policy"):
        read_policy(tmp_path)


@pytest.mark.parametrize(
    "policy",
    [
        Policy.model_validate({"budget": {"epsilon": 8, "delta": 2e-5}}),
        make_policy(
            budget={"order": 4},
            mechanisms=["laplace", "none"],
            least_cohort=3,
            units=["site", "example"],
            secure_aggregation="encrypted",
            colluding_sites=2,
            models=[BASE],
            tasks=["causal-lm"],
            coordinator=COORDINATOR.public.hex(),
            metrics_epsilon=0.25,
            approval="manual",
        ),
        make_policy(models=[], mechanisms=[]),
    ],
    ids=["least", "every key", "empty lists"],
)
def test_a_policy_that_is_written_reads_the_same(tmp_path: Path, policy: Policy) -> None:
    path = tmp_path / "site.toml"
    path.write_text(policy_toml(policy))
    assert read_policy(path) == policy
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as editors on Windows begin a file
    assert read_policy(path) == policy


def test_the_documents_policy_is_one(tmp_path: Path) -> None:
    """docs/policy.md shows a whole site.toml; only its digests are cut short there."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "policy.md").read_text()
    shown = text.split("```toml\n")[1].split("```")[0].replace("3f0c…", BASE).replace("a1b2…", OTHER_BASE)
    path = tmp_path / "site.toml"
    path.write_text(shown)
    policy = read_policy(path)
    assert policy.budget.epsilon_per_run == 3.0
    assert policy.rules.approval == "manual"
    keys = {*Policy.model_fields["budget"].annotation.model_fields, *type(policy.rules).model_fields}
    assert {key for key in keys if f"{key} = " not in shown} == set()
