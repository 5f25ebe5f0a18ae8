"""A ledger for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from privacy.ledger.ledger import Ledger
from tests.privacy.ledgers import (
    DATA,
    open_ledger,
    unflushed,
)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    with unflushed():
        yield


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


@pytest.fixture
def dataset(ledger: Ledger) -> int:
    return ledger.register(DATA["base"])
