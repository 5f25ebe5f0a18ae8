"""RoLoRA's rounds: what each trains, how long an update is, and that both halves of a pair are learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import JobError, ProtocolError
from protocol.job.layout import AdapterLayout
from strategies.rolora import RoLoRA
from tests import tiny

RULE = RoLoRA()


def whole(rank: int, rows: int, columns: int) -> AdapterLayout:
    return RULE.lay_out(
        {"head.weight": (2, 3), "l.lora_A.weight": (rank, columns), "l.lora_B.weight": (rows, rank)}
    )


def trained(layout: AdapterLayout) -> set[str]:
    return {slot.name for slot in layout.slots if slot.trained}


@pytest.mark.parametrize("number", [1, 2, 3, 10, 99_999])
def test_b_is_trained_in_odd_rounds_and_a_in_even_ones(number: int) -> None:
    half = "l.lora_B.weight" if number % 2 else "l.lora_A.weight"
    assert trained(RULE.in_round(whole(2, 5, 6), number)) == {"head.weight", half}


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(1, 4), rows=st.integers(1, 9), columns=st.integers(1, 9), number=st.integers(1, 9))
def test_updates_of_all_rounds_have_one_size(rank: int, rows: int, columns: int, number: int) -> None:
    layout = RULE.in_round(whole(rank, rows, columns), number)
    assert layout.update_size == whole(rank, rows, columns).update_size == 6 + rank * max(rows, columns)
    assert layout.trained_size == 6 + rank * (rows if number % 2 else columns)
    before, after = np.zeros(layout.adapter_size, np.float32), np.ones(layout.adapter_size, np.float32)
    update = RULE.encode(layout, before, after)
    assert update.tolist() == [1.0] * layout.trained_size + [0.0] * (
        layout.update_size - layout.trained_size
    )
    # What stands behind the tensors, as noise for a whole update does, moves nothing.
    update[layout.trained_size :] = 7.0
    assert layout.apply(before, update).sum() == layout.trained_size


def test_both_rounds_at_once_are_no_update() -> None:
    layout = whole(2, 5, 6)
    adapter = np.zeros(layout.adapter_size, np.float32)
    with pytest.raises(ProtocolError, match="expected tensors of 18 numbers at most, got 28"):
        RULE.encode(layout, adapter, adapter)


def test_a_layout_that_sends_another_number_is_another_layout() -> None:
    layout = whole(2, 5, 6)
    digests = {layout.digest, RULE.in_round(layout, 1).digest, RULE.in_round(layout, 2).digest}
    assert len(digests) == 3
    assert RULE.in_round(layout, 3) == RULE.in_round(layout, 1)


def test_compression_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(JobError, match=r'compression\.kind: expected "none" with strategy\.name="rolora"'):
        tiny.job(tiny_folder, strategy={"name": "rolora"}, compression={"kind": "random"})
