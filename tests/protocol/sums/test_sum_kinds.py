"""Every kind of sum that a job can name is one at the site, at the coordinator, and between them."""

from __future__ import annotations

from typing import get_args

import pytest

from client.sums import open_sums
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.sums import sum_kinds as kinds
from server.sums import make_sums
from tests.server.runs import make_job

NAMED = [one.model_fields["kind"].default for one in get_args(Job.model_fields["aggregation"].annotation)]


def test_a_job_can_name_three_kinds() -> None:
    assert NAMED == ["masks", "homomorphic", "none"]


@pytest.mark.parametrize("registry", [kinds._KINDS, open_sums._KINDS, make_sums._KINDS])
def test_each_kind_is_in_each_registry(registry: dict[str, object]) -> None:
    assert list(registry) == NAMED


@pytest.mark.parametrize("kind", NAMED)
def test_what_a_kind_hides_is_what_people_are_told(kind: str) -> None:
    job = make_job(aggregation={"kind": kind})
    told = kinds.sum_kind(job)
    assert type(told).__module__.startswith("protocol.sums.")
    messages = told.messages(job, ["east", "west"], site="east", update_size=1000)
    # A number takes four bytes in the open and under masks of 32 bits, and more as ciphertexts.
    assert len(messages.trained.update) >= 4000
    assert bool(messages.requests) == (kind == "masks")
    assert bool(messages.opening) == (kind == "homomorphic")


@pytest.mark.parametrize(
    ("cohort", "aggregation", "said"),
    [
        (10, {"threshold": 8}, "sums of 8 sites or more; with 6 of the sites it could read each update"),
        (
            100,
            {"threshold": 90},
            "sums of 90 sites or more; with 80 of the sites it could read each",
        ),
        (10, {"threshold": 8, "confirm": False}, "breaking the protocol it could read each update"),
        # Whom a site masks with is drawn: no number of sites is too few for certain.
        (1000, {"threshold": 900}, "up to 100 of the sites it can read no single update, but for a probab"),
        (1000, {"threshold": 900, "colluding": 150}, "up to 150 of the sites it can read no single update"),
    ],
)
def test_who_approves_is_told_with_how_many_sites_an_update_is_read(
    cohort: int, aggregation: dict[str, object], said: str
) -> None:
    job = make_job(
        aggregation={"kind": "masks", **aggregation}, federation={"min_sites": aggregation["threshold"]}
    )
    manifest = Manifest(
        run="r", job=job, cohort=cohort, labels=("bad", "good"), model_digest="", layout_digest=""
    )
    assert said in kinds.sum_kind(job).who_reads(manifest)
