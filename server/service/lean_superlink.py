"""Flower's SuperLink, without layers at paths where they do nothing.

It is started as ``python -P -m server.service.lean_superlink …``, with the options of ``flower-superlink``.
Every request passes eight layers of Flower's web framework, each a task of its own with queues around it.
Six of them look at the path, and hand on what is not the Control API's, or not the Fleet API's: that goes
round them here, by the same path. So nothing that a layer does is left out, node authentication least of
all; a layer that is not known below stays as it is.

What is assumed of Flower's layers is tried by ``tests/server/service/test_lean_superlink.py``.
"""

from __future__ import annotations

import sys
from typing import Any

from flwr.superlink import main as superlink
from flwr.superlink.cli import flower_superlink
from starlette.middleware import Middleware

_CONTROL, _FLEET = "/v1/control/", "/v1/fleet/"
# Where a layer has something to do.
_WORKS_AT = {
    "ControlSensitiveResponseMiddleware": _CONTROL,
    "ControlAuthenticationMiddleware": _CONTROL,
    "ControlLicenseMiddleware": _CONTROL,
    "ControlEventLogMiddleware": _CONTROL,
    "NodeAuthMiddleware": _FLEET,
    "FleetEventLogMiddleware": _FLEET,
}


def narrow(layers: list[Middleware]) -> list[Middleware]:
    """The same layers, outermost first; those that work at some paths alone are met at these alone."""
    return [_narrowed(layer) for layer in layers]


def _narrowed(layer: Middleware) -> Middleware:
    kind: Any = layer.cls
    prefix = _WORKS_AT.get(kind.__name__)
    return layer if prefix is None else Middleware(_only_at(prefix, kind), *layer.args, **layer.kwargs)


def _only_at(prefix: str, layer: Any) -> Any:
    class Narrow(layer):  # type: ignore[misc]  # Flower's
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            # Routes are found by the same path, as it is here.
            if scope["type"] == "http" and not scope["path"].startswith(prefix):
                await self.app(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

    Narrow.__name__ = layer.__name__
    return Narrow


def main() -> None:
    """Be ``flower-superlink``."""
    all_layers = superlink._get_middleware
    superlink._get_middleware = lambda: narrow(all_layers())
    sys.argv[0] = "flower-superlink"
    flower_superlink()


if __name__ == "__main__":
    main()
