"""How likely texts are under a public language model, each text by itself."""

from __future__ import annotations

import math
from typing import Any

from privacy.errors import ModelError
from protocol.job.job_file import parse_job
from tasks.data.density_rule import DensityRule


class TextDensity:
    """A causal language model on the processor, and what it says of texts. It is loaded once.

    Each text is computed alone, without padding: so neither whether it passes nor the last bit of its
    density depends on any other.
    """

    def __init__(self, rule: DensityRule, *, model: Any, reader: Any) -> None:
        self.rule = rule
        self._model = model
        self._reader = reader
        self._seen: list[float] = []

    @classmethod
    def load(cls, rule: DensityRule) -> TextDensity:
        """The rule's model, as a job for the ``causal-lm`` task would load it. Raises ModelError."""
        import torch

        from tasks.model.base_model import load_base_model
        from tasks.model.device import Device

        gguf = {} if rule.gguf is None else {"gguf": rule.gguf}
        job = parse_job(
            {
                "name": "gate",
                "task": "causal-lm",
                "model": {"source": rule.model, **gguf},
                "adapter": {"target_modules": ["all-linear"]},
                "data": {"source": "gate", "max_length": rule.tokens},
            }
        )
        base = load_base_model(job, labels=(), device=Device(torch=torch.device("cpu"), bfloat16=False))
        if base.limit is not None and rule.tokens > base.limit:
            raise ModelError(
                f"tokens={rule.tokens}: expected {base.limit} at most, as the model takes no more"
            )
        return cls(rule, model=base.model.eval(), reader=base.reader)

    def of(self, text: str) -> float | None:
        """The mean log-probability of a text's tokens, the first aside, in nats.

        None for a text of one token or none, or one that the tokenizer or the model fails on.
        """
        import numpy as np
        import torch

        from tasks.data.tokenization import tokenize

        examples = tokenize(self._reader, texts=[text], labels=None).examples
        if examples.sizes[0] < 2:
            return None
        tokens = examples.batch(np.zeros(1, np.int64)).inputs["input_ids"].long()
        try:
            with torch.no_grad():
                logits = self._model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        except Exception:  # a model's code raises whatever it likes, and no row may stop a site
            return None
        logs = logits[0, :-1].float().log_softmax(-1).gather(1, tokens[0, 1:, None])
        found = float(logs.double().mean())
        return found if math.isfinite(found) else None

    def fault(self, text: str) -> str | None:
        """Why a text stays out, in a few words that do not quote it; None if it passes."""
        density = self.of(text)
        if density is not None:
            self._seen.append(density)
        return self.rule.fault(density)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the custodian is told of the texts that ``fault`` has seen, to choose the rule's ends by."""
        import numpy as np

        if not self._seen:
            return ()
        ends = ", ".join(f"{value:.2f}" for value in np.quantile(self._seen, [0, 0.05, 0.5, 0.95, 1]))
        return (
            f"the gate's model gives {len(self._seen)} texts, in nats a token, at the least, at 5 %, half, "
            f"95 % and the most of them: {ends}",
        )
