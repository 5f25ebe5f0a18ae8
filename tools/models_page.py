"""Writes docs/models.md from the table of families that the tests run."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if __name__ == "__main__":
    import transformers

    from tests.families.page import render
    from tests.families.table import FAMILIES

    text = render(FAMILIES, version=transformers.__version__)
    (ROOT / "docs" / "models.md").write_text(text, encoding="utf-8")
