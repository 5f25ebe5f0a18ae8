"""A SuperLink with narrowed layers answers as Flower's own does, whoever asks for whatever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Request, Response
from flwr.superlink import main as superlink
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from server.service import lean_superlink
from server.service.lean_superlink import narrow

PROTOBUF = {"content-type": "application/protobuf"}
ASKED = [
    "/v1/fleet/pull-messages",
    "/v1/fleet/push-object",
    "/v1/fleet/nothing",
    "/v1/fleet",
    "//v1/fleet/pull-messages",
    "/V1/fleet/pull-messages",
    "/v1%2Ffleet/pull-messages",
    "/v1/fleet%2Fpull-messages",
    "/v1/fle%65t/pull-messages",
    "/v1/fleet/../fleet/pull-messages",
    "/v1/runtime/pull-messages",
    "/v1/runtime/acquire-task",
    "/v1/control/stop-run",
    "/v1/control/get-login-details",
    "/v1/contro%6c/stop-run",
    "/health",
]


@pytest.fixture(scope="module")
def clients() -> Iterator[tuple[TestClient, TestClient]]:
    """Flower's own, and the narrowed one."""
    layers = superlink._get_middleware
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_TELEMETRY_ENABLED", "0")
        stock = TestClient(superlink.create_app())
        patch.setattr(superlink, "_get_middleware", lambda: narrow(layers()))
        yield stock, TestClient(superlink.create_app())


def answer(client: TestClient, path: str, **asked: Any) -> tuple[int, bytes, list[tuple[str, str]]]:
    found = client.request(asked.pop("method", "POST"), path, **asked)
    return found.status_code, found.content, sorted(found.headers.items())


@pytest.mark.parametrize("path", ASKED)
def test_it_answers_as_flowers_own(clients: tuple[TestClient, TestClient], path: str) -> None:
    stock, lean = clients
    for asked in ({"headers": PROTOBUF}, {"headers": PROTOBUF, "content": b"\xff"}, {}, {"method": "GET"}):
        assert answer(lean, path, **asked) == answer(stock, path, **asked)


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/fle%65t/pull-messages"])
def test_a_node_that_does_not_sign_is_refused(clients: tuple[TestClient, TestClient], path: str) -> None:
    status, content, _ = answer(clients[1], path, headers=PROTOBUF)
    assert (status, b"authentication" in content) == (401, True)


def test_all_layers_are_there_in_flowers_order() -> None:
    """One of a name that Flower no longer has would narrow nothing."""
    layers = superlink._get_middleware()
    names = [layer.cls.__name__ for layer in layers]
    assert [layer.cls.__name__ for layer in narrow(layers)] == names
    assert set(lean_superlink._WORKS_AT) <= set(names)
    assert len(set(names) - set(lean_superlink._WORKS_AT)) == 2  # errors and messages, at every path


@pytest.mark.parametrize("name", sorted(lean_superlink._WORKS_AT))
@pytest.mark.parametrize(
    "path", ["/v1/control/stop-run", "/v1/fleet/pull-messages", "/v1/runtime/get-nodes", "/"]
)
def test_a_layer_hands_on_what_it_is_spared(name: str, path: str) -> None:
    """It gives the next one's answer as it is, and looks at nothing of a request but its path."""
    (layer,) = [one for one in superlink._get_middleware() if one.cls.__name__ == name]
    if path.startswith(lean_superlink._WORKS_AT[name]):
        return
    given = Response(b"next")
    before = list(given.headers.raw)

    async def call_next(_request: Request) -> Response:
        return given

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    scope |= {"server": ("localhost", 1), "scheme": "https"}  # and no app, no state of a request
    found = asyncio.run(made(layer).dispatch(Request(scope), call_next))
    assert found is given
    assert found.headers.raw == before


def test_a_layer_that_is_not_known_stays() -> None:
    class Unknown:
        def __init__(self, app: Any) -> None: ...

    layer = Middleware(Unknown)
    assert narrow([layer]) == [layer]


def made(layer: Middleware) -> Any:
    return layer.cls(None, *layer.args, **layer.kwargs)
