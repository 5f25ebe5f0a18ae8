"""Bytes that have one length, as they come in a message."""

from __future__ import annotations

from privacy.errors import AggregationError

SIGNATURE_BYTES = 64


def sized(content: bytes, size: int, what: str) -> bytes:
    """The content. Raises AggregationError if it has another number of bytes."""
    if len(content) != size:
        raise AggregationError(f"expected {what} in {size} bytes, got {len(content)}", rule="size")
    return content
