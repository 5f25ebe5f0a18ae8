"""How likely a text must be under a public language model to be let into training."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.plain_text import Place
from tasks.task import TaskKeys

Nats = Annotated[float, Field(ge=-1e3, le=0)]


class DensityRule(TaskKeys):
    """The mean log-probability of a text's tokens, in nats, from ``lowest`` to ``highest``; unset: any.

    ``model`` is a causal language model at the site: a folder, or ``package:NAME/PATH``; ``gguf`` a file in
    it. Of a text the first ``tokens`` count, each but the first as told by those before it.
    """

    model: Place
    gguf: Place | None = None
    lowest: Nats | None = None
    highest: Nats | None = None
    tokens: Annotated[int, Field(ge=2, le=4096)] = 256

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.model.startswith("hub:"):
            raise ValueError("model: expected a folder or package:NAME/PATH at the site")
        if self.lowest is not None and self.highest is not None and self.lowest > self.highest:
            raise ValueError("lowest: expected no more than highest")
        return self

    def fault(self, density: float | None) -> str | None:
        """Why a text of this density stays out; None if it passes."""
        if density is None:
            return "the gate: its model makes nothing of it"
        if self.lowest is not None and density < self.lowest:
            return f"the gate: less likely than {self.lowest:g} nats a token"
        if self.highest is not None and density > self.highest:
            return f"the gate: likelier than {self.highest:g} nats a token"
        return None
