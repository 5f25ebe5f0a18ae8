"""Writes documents.jsonl, the data of documents.toml, beside this file: some 2,200 licences of programs.

The texts are in the package licensedcode-data, of which the files alone are wanted:

    pip install --no-deps licensedcode-data==32.1.0
    python examples/licence_texts.py
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

TO = Path(__file__).with_name("documents.jsonl")
KINDS = {"Permissive": "permissive", "Copyleft": "copyleft", "Copyleft Limited": "copyleft"}


def read_licence(path: Path) -> dict[str, str] | None:
    """A licence's text and kind; None for one that is hardly a text."""
    whole = path.read_text("utf-8") + "\n"  # some have no text, and end with the second line of dashes
    _, head, text = whole.split("---\n", maxsplit=2)
    lines = dict(line.split(": ", maxsplit=1) for line in head.splitlines() if ": " in line)
    kind = KINDS.get(lines.get("category", ""), "other")
    return {"text": text.strip(), "kind": kind} if len(text.split()) >= 20 else None


if __name__ == "__main__":
    spec = importlib.util.find_spec("licensedcode")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("licensedcode-data is not installed: see above")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "licenses"
    found = [read_licence(path) for path in sorted(folder.glob("*.LICENSE"))]
    kept = [licence for licence in found if licence is not None]
    TO.write_text("".join(f"{json.dumps(licence)}\n" for licence in kept), "utf-8")
    print(f"Wrote {len(kept)} licences to {TO}")
