"""No honest reply is longer than its limit, and none is let through that is much longer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from privacy.secagg.ckks.homomorphic import longest_content
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.message_kinds import KINDS
from protocol.sums.reply_limits import ReplyLimits
from protocol.sums.sparsification import encode_top
from protocol.sums.sum_kinds import sum_kind
from tests.server.runs import LAYOUT, make_job

SIZE = 1_000_000
SLACK = 1 << 16  # bytes: the envelope, a receipt and names


def limits(cohort: int = 3, **sections: Any) -> ReplyLimits:
    job = make_job(strategy={"name": "ffa"}, **sections)
    manifest = Manifest(
        run="run",
        job=job,
        cohort=cohort,
        labels=("bad", "good"),
        model_digest="",
        layout_digest=LAYOUT.digest,
    )
    return ReplyLimits(manifest=manifest, update_size=SIZE)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, 4 * SIZE),
        ({"compression": {"kind": "random", "share": 0.1}}, 4 * SIZE // 10),
        ({"compression": {"kind": "top-k", "share": 0.1}}, 5 * SIZE // 10 + SIZE // 255),
        ({"aggregation": {"kind": "masks"}}, 4 * SIZE),
        ({"aggregation": {"kind": "masks", "modulus_bits": 20}}, 5 * SIZE // 2),
        ({"aggregation": {"kind": "masks", "modulus_bits": 16}}, 2 * SIZE),
        ({"aggregation": {"kind": "homomorphic"}}, longest_content(SIZE)),
    ],
)
def test_an_update_has_as_many_bytes_as_the_job_says(sections: dict[str, Any], expected: int) -> None:
    assert 0 <= limits(**sections).longest("train") - expected - SLACK <= 256 * 3


@pytest.mark.parametrize("kind", ["none", "masks"])
@pytest.mark.parametrize("sites", [3, 1000])
def test_every_reply_of_a_round_fits(kind: str, sites: int) -> None:
    """Where every site masks with every other, and so each deals for all."""
    found = limits(sites, aggregation={"kind": kind})
    names = [f"site-{number}" for number in range(sites)]
    job = found.manifest.job
    messages = sum_kind(job).messages(job, names, site=names[0], update_size=SIZE)
    trained = pb.Reply(site=names[0], trained=messages.trained)
    for reply in (trained, *messages.replies):
        (asked,) = [one.request for one in KINDS if one.reply == reply.WhichOneof("kind")]
        assert reply.ByteSize() + SLACK // 2 < found.longest(asked)
    deal = pb.Reply(site=names[0], dealing=messages.trained.next)
    assert deal.ByteSize() + SLACK // 2 < found.longest("deal")


def test_the_places_of_the_largest_fit() -> None:
    """The most bytes are those of one coordinate after a long gap, and of few others."""
    update = np.zeros(SIZE, np.float32)
    update[-100_000:] = 1.0
    top = limits(compression={"kind": "top-k", "share": 0.1}).longest("train")
    assert len(encode_top(update, share=0.1)) <= top - SLACK


def test_counts_are_a_word_a_bin() -> None:
    assert 0 <= limits().longest("count") - 8 * SIZE - SLACK <= 256 * 3


@pytest.mark.parametrize("kind", ["join", "evaluate", "confirm", "unmask", "deal"])
def test_small_replies_stay_small(kind: str) -> None:
    assert limits().longest(kind) < 200_000
    assert limits().longest("open") < 4 * SIZE + 200_000
