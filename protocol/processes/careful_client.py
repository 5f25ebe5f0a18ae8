"""What Flower's client of the Fleet API lacks towards a SuperLink that is not to be trusted.

What it assumes of that client is tried by ``tests/protocol/processes/test_flower_contract.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

# Seconds that one answer of a SuperLink may take; the longest are of 7 MB.
_LONGEST_ANSWER = 240.0

# Of a thread that fetches an object: ``given_up`` is set once nobody waits for it any more.
_fetching = threading.local()


class Careful:
    """To be put before Flower's client among the bases of a class.

    Redirects are errors: one would have this process ask any address in the site's own network, in the
    node's name. An answer ends in a bounded time after its head has come. A heartbeat whose answer is of no
    use has failed, and goes out again; Flower's thread would end with it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._client: httpx.Client
        self._client.follow_redirects = False
        self._client.event_hooks = {"request": [_check_wanted], "response": [_watch]}

    def _unary_unary(self, **call: Any) -> Any:
        try:
            return super()._unary_unary(**call)  # type: ignore[misc]
        except ValueError as error:
            raise httpx.RequestError("the SuperLink's answer is no message of Flower's") from error

    def SendNodeHeartbeat(self, request: Any) -> Any:  # noqa: N802  # Flower's name
        try:
            return super().SendNodeHeartbeat(request)  # type: ignore[misc]
        except httpx.TransportError:
            raise
        except httpx.HTTPStatusError as error:
            if error.response.is_client_error:  # the SuperLink refuses the node
                raise
            reason = f"status {error.response.status_code}"
        except httpx.RequestError as error:
            reason = str(error)
        raise httpx.RemoteProtocolError(f"a heartbeat's answer cannot be used: {reason}")


def fetch_until(given_up: threading.Event) -> None:
    """From here on, whatever this thread asks fails once ``given_up`` is set, with httpx.RequestError."""
    _fetching.given_up = given_up
    _check_wanted()


def _check_wanted(_request: httpx.Request | None = None) -> None:
    given_up = getattr(_fetching, "given_up", None)
    if given_up is not None and given_up.is_set():
        raise httpx.RequestError("another object of the message could not be fetched")


def _watch(response: httpx.Response) -> None:
    """Have an answer's body end in time."""
    response.stream = _Watched(response.stream)  # type: ignore[arg-type]


class _Watched(httpx.SyncByteStream):
    """A body that ends with httpx.RequestError when it is too late, or wanted no more."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream, self._until = stream, time.monotonic() + _LONGEST_ANSWER

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            _check_wanted()
            if time.monotonic() > self._until:
                raise httpx.RequestError(f"expected an answer in {_LONGEST_ANSWER:g} seconds")
            yield piece

    def close(self) -> None:
        self._stream.close()
