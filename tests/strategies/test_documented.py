"""docs/strategies.md: its table lists ours, and the strategy that it shows is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.strategy import find_strategy, strategy_names
from tests.strategies.momentum import Momentum

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "strategies.md").read_text()


def test_the_table_says_what_the_rules_do() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \| (yes|no) \|$", TEXT, re.MULTILINE)
    declared = {name: find_strategy(name) for name in strategy_names()}
    assert {name: (linear == "yes", exact == "yes") for name, linear, exact in rows} == {
        name: (rule.linear, rule.exact) for name, rule in declared.items()
    }


def test_the_one_that_is_shown_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(code, "strategies.md", "exec", dont_inherit=True), found)  # noqa: S102 - our own document
    layout = AdapterLayout(slots=(TensorSlot(name="head", shape=(3,), trained=True),))
    adapters = []
    for strategy in (found["Momentum"](momentum=0.5), Momentum(momentum=0.5)):
        state = strategy.start(layout, np.zeros(3, np.float32))
        for number in (1, 2):
            state = strategy.merge(state, np.ones(3, np.float32), layout, number)
        adapters.append(state.adapter.tolist())
    assert adapters == [[2.5] * 3] * 2
