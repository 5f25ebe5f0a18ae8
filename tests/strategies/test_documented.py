"""docs/strategies.md: its table lists ours, and the strategy that it shows is one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.strategy import listed_strategies
from protocol.job.strategy_facts import strategy_facts
from tests.strategies.momentum import Momentum
from tests.strategies.page import render

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "strategies.md").read_text()


def test_the_table_is_made_of_what_the_rules_declare() -> None:
    """`python tools/strategies_page.py` writes it."""
    assert render(TEXT, [strategy_facts(name) for name in listed_strategies()]) == TEXT


def test_another_declaration_would_change_it() -> None:
    facts = [strategy_facts(name) for name in listed_strategies()]
    assert render(TEXT, [*facts[1:], replace(facts[0], exact=not facts[0].exact)]) != TEXT
    with pytest.raises(ValueError, match="got 0 tables"):
        render("no table", facts)


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
