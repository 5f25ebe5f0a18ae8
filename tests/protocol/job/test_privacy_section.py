"""What a job's ``[privacy]`` says of itself: who draws noise, and of which kind."""

from __future__ import annotations

import pytest

from protocol.job.privacy import PrivacySection


@pytest.mark.parametrize(
    ("mechanism", "unit", "noise", "draws_shares", "local_mechanism", "norm"),
    [
        ("gaussian", "example", "distributed", False, "gaussian", 2),
        ("laplace", "example", "distributed", False, "laplace", 1),
        ("none", "example", "distributed", False, "none", 2),
        ("skellam", "site", "distributed", True, "none", 2),
        ("none", "site", "distributed", False, "none", 2),
        ("gaussian", "site", "central", False, "none", 2),
        ("none", "site", "central", False, "none", 2),
    ],
)
def test_who_draws_which_noise(
    mechanism: str, unit: str, noise: str, draws_shares: bool, local_mechanism: str, norm: int
) -> None:
    section = PrivacySection(mechanism=mechanism, unit=unit, noise=noise)
    assert section.draws_shares == draws_shares
    assert (section.local_mechanism, section.norm) == (local_mechanism, norm)
    assert (section.protects, section.hides_sites) == (mechanism != "none", unit == "site")
