"""What a rule does not go with is refused when the job is read, with the key to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy.errors import JobError
from tests import tiny

BIASES = {"adapter": {"bias": "all"}}
CASES: list[tuple[dict[str, Any], str]] = [
    (BIASES | {"strategy": {"name": "head"}}, r'adapter\.bias: expected "none" with strategy\.name="head"'),
    (
        BIASES | {"strategy": {"name": "ffa", "keep_local": "head"}},
        r'adapter\.bias: expected "none" with strategy\.keep_local="head"',
    ),
    (
        {"adapter": {"init": "pissa"}, "strategy": {"name": "head"}},
        r'adapter\.init: expected "orthonormal" with strategy\.name="head"',
    ),
    (
        {"adapter": {"init": "olora"}, "strategy": {"name": "flora"}, "aggregation": {"kind": "none"}},
        r'adapter: expected no rank_pattern, no alpha_pattern and init="orthonormal"',
    ),
    (
        {"adapter": {"alpha_pattern": {"query": 2.0}}, "strategy": {"name": "fedex"}}
        | {"aggregation": {"kind": "none"}},
        r'adapter: expected no rank_pattern, no alpha_pattern and init="orthonormal"',
    ),
    (
        {"strategy": {"name": "krum", "malicous": 1}},
        r"strategy\.malicous: unknown key of name='krum' \(expected .*; did you mean 'malicious'\?\)",
    ),
    (
        {"strategy": {"name": "lora_fair", "malicious": 1}},
        r"strategy\.malicious: unknown key of name='lora_fair' \(expected one of name, .*, penalty\)$",
    ),
    (
        {"strategy": {"name": "median", "malicious": -1}},
        r"strategy\.malicious: expected how many sites may send anything, 1 or more, got -1$",
    ),
    (
        {"strategy": {"name": "bulyan", "malicious": 0}},
        r"strategy\.malicious: expected how many sites may send anything, 1 or more, got 0$",
    ),
    (
        {"strategy": {"name": "trimmed_mean"}},
        r"strategy\.malicious: expected how many sites may send anything, 1 or more, with",
    ),
    (
        {"strategy": {"name": "scaffold"}, "compression": {"kind": "random"}},
        r'compression\.kind: expected "none" with strategy\.name="scaffold"',
    ),
    (
        {"adapter": {"ranks": [1, 2, 2]}, "strategy": {"name": "flora", "keep_local": "head"}}
        | {"aggregation": {"kind": "none"}},
        r'adapter\.ranks: expected none with strategy\.keep_local="head"',
    ),
    (
        {"adapter": {"ranks": [1, 2, 2]}, "strategy": {"name": "flora"}, "aggregation": {"kind": "none"}}
        | {"training": {"personal_steps": 1}, "metrics": {"epsilon": 1.0}},
        r"training\.personal_steps: expected 0 with adapter\.ranks",
    ),
]


@pytest.mark.parametrize(("changes", "said"), CASES, ids=range(len(CASES)))
def test_the_key_to_change_is_named(tiny_folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        tiny.job(tiny_folder, **changes)
