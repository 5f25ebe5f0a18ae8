"""An auditor finds each way to tamper with a run, and names the round and the site."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from privacy.identity import Identity
from privacy.mechanisms.mechanism import Mechanism
from runs.run_audit import audit_run
from runs.run_folder import RunFolder
from tests.server.evidence import (
    SITES,
    edit_json,
    found,
    ledgers,
    receipt,
    resign,
    tell,
)


@pytest.mark.parametrize("told", [(), ("site-2",), SITES], ids=["no ledger", "one", "all"])
def test_an_honest_run_passes(run: RunFolder, told: tuple[str, ...]) -> None:
    audit = audit_run(run, ledgers(run, *told) if told else [])
    assert (audit.run, audit.rounds, audit.manifest) == ("run", 3, run.manifest.digest.hex())
    assert (audit.epsilon, audit.delta) == (8.0, 1e-3)
    assert [site.site for site in audit.sites] == list(SITES)
    for site in audit.sites:
        assert (site.taken, site.planned, site.rounds) == (6, 6, 3)
        assert site.epsilon == run.records()[-1].epsilon[site.site]
        # The second accountant's is an upper bound too, less than 1 % and 0.002 above the exact value.
        assert site.recomputed == pytest.approx(site.epsilon, rel=0.012)
        assert site.charged == (3 if site.site in told else None)


def test_a_receipts_changed_byte(run: RunFolder) -> None:
    def change(table: dict[str, Any]) -> None:
        assert '"steps":2' in table["site-2"]["content"]
        table["site-2"]["content"] = table["site-2"]["content"].replace('"steps":2', '"steps":1')

    edit_json(run.receipts_path(2), change)
    assert found(run) == "round 2, site-2: the signature does not fit: receipt"


def test_a_receipts_changed_signature(run: RunFolder) -> None:
    def change(table: dict[str, Any]) -> None:
        signature = table["site-2"]["signature"]
        table["site-2"]["signature"] = ("0" if signature[0] != "0" else "1") + signature[1:]

    edit_json(run.receipts_path(2), change)
    assert found(run).startswith("round 2, site-2: the signature does not fit")


def test_a_receipt_that_is_gone(run: RunFolder) -> None:
    edit_json(run.receipts_path(2), lambda table: table.pop("site-2"))
    assert found(run) == "round 2: expected one receipt from each site; it is otherwise for site-2"


def test_a_receipt_too_many(run: RunFolder) -> None:
    edit_json(run.receipts_path(2), lambda table: table.update({"site-4": table["site-2"]}))
    assert found(run) == "round 2: expected one receipt from each site; it is otherwise for site-4"


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{", b'{"site-1": 3}', b"\xff"])
def test_a_rounds_receipts_that_are_none(run: RunFolder, content: bytes | None) -> None:
    path = run.receipts_path(2)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    words = found(run)
    assert words.startswith("round 2: ")
    assert "cannot be read" in words or "receipt" in words


def test_receipts_swapped_between_sites(run: RunFolder) -> None:
    def swap(table: dict[str, Any]) -> None:
        table["site-2"], table["site-3"] = table["site-3"], table["site-2"]

    edit_json(run.receipts_path(2), swap)
    assert found(run).startswith("round 2, site-2: the signature does not fit")


def test_sites_swapped_with_their_keys(run: RunFolder) -> None:
    """The signatures fit then, and the names in what was signed do not."""

    def swap(table: dict[str, Any]) -> None:
        table["site-2"], table["site-3"] = table["site-3"], table["site-2"]

    edit_json(run.path / "sites.json", swap)
    for number in (1, 2, 3):
        edit_json(run.receipts_path(number), swap)
    assert found(run) == "round 1, site-2: its site is wrong: expected site-2, got site-3"


def test_a_replaced_key(run: RunFolder) -> None:
    other = Identity.generate().public.hex()
    edit_json(run.path / "sites.json", lambda table: table.update({"site-2": other}))
    assert found(run).startswith("round 1, site-2: the signature does not fit")
    assert "whose key is none of this run's" in found(run, ledgers(run))


@pytest.mark.parametrize("change", ["lost", "added"])
def test_a_site_that_is_not_in_the_manifest(run: RunFolder, change: str) -> None:
    def edit(table: dict[str, Any]) -> None:
        if change == "lost":
            del table["site-2"]
        else:
            table["site-4"] = Identity.generate().public.hex()

    edit_json(run.path / "sites.json", edit)
    joined = 2 if change == "lost" else 4
    assert found(run) == f"the manifest is for 3 sites, at least 3 in each round, and {joined} joined"


@pytest.mark.parametrize("claimed", [0.5, None, 7.0])
def test_another_epsilon_in_the_coordinators_record(run: RunFolder, claimed: float | None) -> None:
    tell(run, 2, claimed)
    signed = receipt(run, 2).epsilon
    words = f"round 2, site-2: its epsilon in rounds.jsonl is wrong: expected {signed}, got {claimed}"
    assert found(run) == words


def test_a_receipt_of_the_round_before(run: RunFolder) -> None:
    kept = run.receipts(1)["site-2"]
    run.save_receipts(2, run.receipts(2) | {"site-2": kept})
    tell(run, 2, receipt(run, 1).epsilon)
    assert found(run) == "round 2, site-2: its round is wrong: expected 2, got 1"


def test_a_receipt_that_counts_the_round_before_again(run: RunFolder) -> None:
    before = receipt(run, 1)
    resign(run, 2, taken=before.taken, epsilon=before.epsilon)
    assert found(run) == "round 2, site-2: after 2 of 6 steps, and 2 more, it counts 2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run": "other"}, "its run is wrong: expected run, got other"),
        ({"manifest": "0" * 64}, "its manifest is wrong"),
        ({"round": 3}, "its round is wrong: expected 2, got 3"),
        ({"site": "site-1"}, "its site is wrong"),
        ({"purpose": "metrics"}, "its purpose is wrong: expected training, got metrics"),
        ({"steps": 1}, "its number of steps is wrong: expected 2, got 1"),
        ({"taken": 3}, "after 2 of 6 steps, and 2 more, it counts 3"),
        ({"taken": 7}, "after 2 of 6 steps, and 2 more, it counts 7"),
        ({"budget": 9.0}, "its budget is wrong: expected 8.0, got 9.0"),
    ],
)
def test_a_site_that_signs_something_else(run: RunFolder, changes: dict[str, Any], words: str) -> None:
    resign(run, 2, **changes)
    assert found(run).startswith(f"round 2, site-2: {words}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mechanism": Mechanism(name="gaussian", multiplier=5.0)}, "its plan is wrong"),
        ({"mechanism": Mechanism(name="laplace", multiplier=5.0)}, "its mechanism is wrong"),
        ({"sampling_rate": 0.1}, "its plan is wrong"),
        ({"steps": 5}, "its number of planned steps is wrong: expected 6, got 5"),
        ({"delta": 0.1}, "its delta is wrong: expected 0.001, got 0.1"),
        ({"clipping_norm": 0.5}, "its clipping norm is wrong: expected 1.0, got 0.5"),
    ],
)
def test_a_site_that_signs_another_plan(run: RunFolder, changes: dict[str, Any], words: str) -> None:
    resign(run, 2, plan=replace(receipt(run, 2).plan, **changes))
    assert found(run).startswith(f"round 2, site-2: {words}")


def test_a_plan_that_cannot_be_checked_is_named(run: RunFolder) -> None:
    quiet = Mechanism(name="gaussian", multiplier=1e-5)
    resign(run, 1, plan=replace(receipt(run, 1).plan, mechanism=quiet))
    assert found(run).startswith("round 1, site-2: no second accountant can check it: so little noise")


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_lower_epsilon_under_the_sites_own_key(run: RunFolder, share: float) -> None:
    """Signature, manifest and rounds.jsonl all agree: only counting again tells."""
    claimed = receipt(run, 2).epsilon * share
    resign(run, 2, epsilon=claimed)
    words = found(run)
    assert words.startswith(f"round 2, site-2: it claims epsilon={claimed}, a second accountant finds 6.")


@pytest.mark.parametrize("claimed", [None, float("nan"), -1.0])
def test_an_epsilon_that_is_none(run: RunFolder, claimed: float | None) -> None:
    resign(run, 2, epsilon=claimed)
    assert found(run).startswith("round 2, site-2: ")


def test_less_noise_than_the_budget_allows(run: RunFolder) -> None:
    """What it claims is true, and more than was agreed."""
    plan = receipt(run, 1).plan
    noisy = replace(plan, mechanism=replace(plan.mechanism, multiplier=plan.mechanism.multiplier * 0.8))
    for number in (1, 2, 3):
        epsilon = noisy.epsilon_after(2 * number)
        resign(run, number, plan=noisy, epsilon=epsilon)
    over = next(number for number in (1, 2, 3) if noisy.epsilon_after(2 * number) > 8.0)
    assert found(run).startswith(f"round {over}, site-2: epsilon=")
    assert "is over the run's budget of 8" in found(run)


@pytest.mark.parametrize("canonical", [False, True])
def test_a_changed_manifest(run: RunFolder, canonical: bool) -> None:
    path = run.path / "manifest.json"
    content = path.read_text()
    assert '"epsilon":8.0' in content
    changed = content.replace('"epsilon":8.0', '"epsilon":9.0' if canonical else '"epsilon": 8.0')
    path.write_text(changed)
    words = found(run)
    if canonical:
        assert words.startswith("round 1, site-1: its manifest is wrong")
    else:
        assert "not in its canonical form" in words
