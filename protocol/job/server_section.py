"""The job's ``strategy.server``: an optimizer that moves the adapter by what the sites' mean would change.

Source: Reddi et al. 2021 (arXiv:2003.00295), algorithm 2; for momentum Hsu et al. 2019 (arXiv:1909.06335).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from protocol.job.section import Section, by_shape

_Rate = Annotated[float, Field(gt=0, le=1e6)]
_Memory = Annotated[float, Field(ge=0, lt=1)]
# Added to a coordinate's root mean square: the larger, the more a step is as long as the aggregate.
_Tau = Annotated[float, Field(ge=1e-12, le=1e6)]


class ServerMomentum(Section):
    """The aggregates are added to a velocity that lasts into later rounds."""

    optimizer: Literal["fedavgm"]
    learning_rate: _Rate = 1.0
    momentum: _Memory = 0.9


class ServerAdam(Section):
    """Each coordinate moves by about the learning rate, whatever the size of its aggregates."""

    optimizer: Literal["fedadam", "fedyogi"]
    learning_rate: _Rate = 0.1
    beta1: _Memory = 0.9
    beta2: _Memory = 0.99
    tau: _Tau = 1e-3


class ServerAdagrad(Section):
    """Each coordinate moves by less the more its aggregates have moved it."""

    optimizer: Literal["fedadagrad"]
    learning_rate: _Rate = 0.1
    tau: _Tau = 1e-3


_TAGS = {
    "fedavgm": "ServerMomentum",
    "fedadam": "ServerAdam",
    "fedyogi": "ServerAdam",
    "fedadagrad": "ServerAdagrad",
}


def _kind(value: Any) -> str | None:
    if isinstance(value, ServerMomentum | ServerAdam | ServerAdagrad):
        return type(value).__name__
    name = value.get("optimizer") if isinstance(value, dict) else None
    return _TAGS.get(name) if isinstance(name, str) else None


ServerSection = Annotated[
    Annotated[ServerMomentum, Tag("ServerMomentum")]
    | Annotated[ServerAdam, Tag("ServerAdam")]
    | Annotated[ServerAdagrad, Tag("ServerAdagrad")],
    by_shape(_kind, f"expected {{ optimizer = NAME, … }} with one of {', '.join(_TAGS)}"),
]
