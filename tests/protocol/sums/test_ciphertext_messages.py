"""What travels in a homomorphic sum: sizes are checked, and each site is named once."""

from __future__ import annotations

import pytest

from privacy.errors import AggregationError
from privacy.secagg.ckks.homomorphic import longest_content
from privacy.secagg.ckks.shared_key import KEY_MAX
from protocol.messages import confide_pb2 as pb
from protocol.sums.ciphertext_messages import make_contribution, read_digests, read_key_dealt

DEALT = {"site": "north", "key": bytes(32), "commitment": bytes(32), "sealed": b"x"}


def test_each_site_has_one_digest() -> None:
    found = read_digests(pb.Confirm(survivors=["a", "b"], digests=[bytes(32), b"1" * 32]))
    assert found == {"a": bytes(32), "b": b"1" * 32}


@pytest.mark.parametrize(
    ("survivors", "digests"),
    [
        (["a", "a"], [bytes(32)] * 2),  # the second would take the first's place
        (["a", "b"], [bytes(32)]),
        (["a"], [bytes(32)] * 2),
        (["a"], [bytes(31)]),
    ],
)
def test_other_lists_of_digests_are_refused(survivors: list[str], digests: list[bytes]) -> None:
    with pytest.raises(AggregationError):
        read_digests(pb.Confirm(survivors=survivors, digests=digests))


def test_a_cohort_has_one_dealing_of_the_key() -> None:
    assert read_key_dealt(pb.Cohort(dealt=[pb.Dealt(**DEALT)])).site == "north"
    for count in (0, 2):
        with pytest.raises(AggregationError, match="expected one dealing"):
            read_key_dealt(pb.Cohort(dealt=[pb.Dealt(**DEALT)] * count))


@pytest.mark.parametrize(
    "change", [{"key": bytes(31)}, {"commitment": b""}, {"sealed": bytes(KEY_MAX + 1)}]
)
def test_parts_of_another_size_are_refused(change: dict[str, bytes]) -> None:
    with pytest.raises(AggregationError, match=r"(of|from) north"):
        read_key_dealt(pb.Cohort(dealt=[pb.Dealt(**DEALT | change)]))


def test_ciphertexts_are_no_longer_than_an_updates() -> None:
    longest = longest_content(100)
    assert len(make_contribution("a", bytes(longest), bytes(64), update_size=100).content) == longest
    with pytest.raises(AggregationError, match="at most from a"):
        make_contribution("a", bytes(longest + 1), bytes(64), update_size=100)
