"""Each family trains, repeats and is exported right, or is refused by name: what docs/models.md says."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.families.family import Family
from tests.families.page import render
from tests.families.table import FAMILIES
from tests.families.trial_names import ALL_LINEAR, CAUSAL, CLASSIFIER, MEAN, TOP, TRIALS
from tests.families.trials import TEXTS, attempt

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "models.md"
Build = Callable[[Family], Path]

# These are tried by `make test`: a head that a checkpoint lacks, an own head, rows that are no examples,
# towers, shared layers and a refusal.
QUICK = (
    ("BERT, masked language model", CLASSIFIER),
    ("Mamba", MEAN),
    ("XLNet", TOP),
    ("Gemma 3", CAUSAL),
    ("ALBERT", TOP),
    ("FNet", ALL_LINEAR),
)
PAIRS = sorted(
    ((family, trial) for family in FAMILIES for trial in TRIALS),
    key=lambda pair: (pair[0].name, pair[1]) not in QUICK,
)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Writes a family's checkpoint, once."""
    folder = tmp_path_factory.mktemp("families")

    def built(family: Family) -> Path:
        place = folder / family.name
        return place if place.exists() else family.build(place)

    return built


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    path.write_text(TEXTS, encoding="utf-8")
    return path


@pytest.mark.exhaustive(but=len(QUICK))
@pytest.mark.parametrize(
    ("family", "trial"), PAIRS, ids=[f"{family.name}: {trial}" for family, trial in PAIRS]
)
def test_a_family_does_what_the_table_says(family: Family, trial: str, build: Build, data: Path) -> None:
    found = attempt(family, trial, model=build(family), data=data)
    refused = family.refused.get(trial)
    if refused is not None:
        assert refused.words in (found.refusal or "")
        return
    assert found.refusal is None
    assert found.batched == (trial not in family.one_by_one)
    if trial == TOP:
        assert found.kept == family.kept


def test_the_table_is_long_and_each_name_is_in_it_once() -> None:
    names = [family.name for family in FAMILIES]
    assert len(names) >= 100
    assert len(set(names)) == len(names)
    assert {name for name, _ in QUICK} <= set(names)


def test_the_page_is_the_tables() -> None:
    """`python tools/models_page.py` writes it."""
    assert PAGE.read_text("utf-8") == render(FAMILIES, version=importlib.metadata.version("transformers"))
