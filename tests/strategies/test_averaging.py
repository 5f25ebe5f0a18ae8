"""The mean of updates."""

from __future__ import annotations

import numpy as np
import pytest

from privacy.errors import ProtocolError
from strategies.averaging import mean_update


def test_mean_does_not_depend_on_who_answered_first() -> None:
    generator = np.random.default_rng(0)
    updates = {f"site-{i}": generator.standard_normal(50).astype(np.float32) for i in range(9)}
    backwards = dict(reversed(updates.items()))
    assert mean_update(updates).tobytes() == mean_update(backwards).tobytes()
    expected = np.mean([u.astype(np.float64) for u in updates.values()], axis=0)
    np.testing.assert_allclose(mean_update(updates), expected, rtol=1e-6)


def test_mean_of_nothing_or_of_different_sizes_is_refused() -> None:
    with pytest.raises(ProtocolError, match="at least one"):
        mean_update({})
    with pytest.raises(ProtocolError, match="one size"):
        mean_update({"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)})
