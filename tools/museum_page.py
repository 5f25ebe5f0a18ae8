"""Writes docs/museum.md from what the exhibits in tests/museum show."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if __name__ == "__main__":
    from tests.museum.gallery import EXHIBITS
    from tests.museum.page import render

    shown = []
    for exhibit in EXHIBITS:
        with tempfile.TemporaryDirectory() as place:
            shown.append((exhibit, exhibit.show(Path(place))))
    (ROOT / "docs" / "museum.md").write_text(render(shown), encoding="utf-8")
