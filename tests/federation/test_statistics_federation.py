"""``confide stats`` with a server, relays and agents: one answer, one charge, and the same answer again."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from privacy.ledger.entries import Released
from privacy.ledger.ledger_audit import audit_ledger
from tests.federation.local import SITES, LocalFederation

WORDS = (
    "--set=statistics.epsilon=8",
    "--set=statistics.labels=true",
    "--set=statistics.lengths={ range = [0, 64], bins = 16 }",
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    made = LocalFederation(tmp_path_factory.mktemp("federation"))
    try:
        for site in SITES:
            path = made.home(site) / "site.toml"
            table = tomllib.loads(path.read_text())
            table["rules"]["statistics_epsilon"] = 8.0
            path.write_text(tomli_w.dumps(table))
        made.start_server()
        for site in SITES:
            made.start_site(site)
        made.wait_for_sites()
        yield made
    finally:
        made.close()


def released(home: Path) -> list[tuple[str, str]]:
    events = [entry.event for entry in audit_ledger(home / "ledger.db").entries]
    return [(one.run, one.purpose) for one in events if isinstance(one, Released)]


@pytest.mark.process
def test_a_federation_counts_once(federation: LocalFederation) -> None:
    asked = federation.confide(
        "stats", str(federation.job), *federation.tiny, *WORDS, "--json", "--run-name", "counts",
        "--coordinator", "federation/coordinator",
    )  # fmt: skip
    told = json.loads(asked.stdout)
    assert asked.stderr == ""
    assert set(told["spent"]) == set(SITES)
    # Three sites of 1,500 tweets; more than six deviations off it is once in 5·10^8 times.
    assert abs(told["examples"]["value"] - 4500) < 6 * told["examples"]["std"]
    assert set(told["labels"]) == {"negative", "neutral", "positive"}
    assert [released(federation.home(site)) for site in SITES] == [[("counts", "statistics")]] * 3
    status = json.loads(federation.confide("server", "status", "federation/coordinator", "--json").stdout)
    (run,) = status["runs"]
    assert (run["run"], run["state"], run["done"], run["epsilon"]) == (
        "counts",
        "finished",
        1,
        max(told["spent"].values()),
    )
    federation.stop("server")
    again = federation.confide("stats", "--resume", "federation/coordinator/runs/counts", "--json")
    assert json.loads(again.stdout) == told
    assert [len(released(federation.home(site))) for site in SITES] == [1, 1, 1]
