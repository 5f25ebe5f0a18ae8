"""One form of JSON for whatever is hashed or signed."""

from __future__ import annotations

import json
from typing import Any


def canonical_json(table: dict[str, Any]) -> bytes:
    """Keys in order, no spaces, UTF-8: the same table is the same bytes."""
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
