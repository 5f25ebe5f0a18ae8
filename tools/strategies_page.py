"""Writes the table of docs/strategies.md from what each strategy declares."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if __name__ == "__main__":
    from protocol.job.strategy import listed_strategies
    from protocol.job.strategy_facts import strategy_facts
    from tests.strategies.page import render

    page = ROOT / "docs" / "strategies.md"
    facts = [strategy_facts(name) for name in listed_strategies()]
    page.write_text(render(page.read_text("utf-8"), facts), encoding="utf-8")
