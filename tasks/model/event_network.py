"""The network for events: each is embedded, and the last one attends to all, less to old ones."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

THERE, AGE = 0, 1  # channels: whether there is an event, and how long before the last one it was


class EventNetwork(nn.Module):
    """float32[b, inputs, length] to logits, float32[b, labels]; the last place has the last event.

    All layers are linear, so that every row of a batch can have weights of its own. What a head pays to an
    event falls with its age, at a rate that is fixed for each head, as ALiBi's is (Press et al. 2022,
    arXiv:2108.12409). The classifier sees the last event, the mean of all, and what attention found: under
    noise the linear part is learned first.
    """

    def __init__(self, *, inputs: int, labels: list[str], width: int, heads: int) -> None:
        super().__init__()
        self.made_of = {"inputs": inputs, "labels": labels, "width": width, "heads": heads}
        self.heads = heads
        self.embedding = nn.Linear(inputs, width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mixed = nn.Linear(width, width)
        self.classifier = nn.Linear(2 * inputs + width, len(labels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        events = values.transpose(1, 2)
        there, age = events[..., THERE], events[..., AGE]
        hidden = functional.layer_norm(self.embedding(events).relu(), (self.embedding.out_features,))
        query, key, value = (self._by_head(layer(hidden)) for layer in (self.query, self.key, self.value))
        # The last event asks: [b, heads, 1, length].
        scores = query[:, :, -1:] @ key.transpose(2, 3) / key.shape[-1] ** 0.5
        rates = torch.tensor([float(4**head) for head in range(self.heads)], device=values.device)
        scores = scores - rates[:, None, None] * age[:, None, None] - 1e4 * (1 - there[:, None, None])
        found = (scores.softmax(-1) @ value).transpose(1, 2).flatten(1)
        attended = self.mixed(functional.layer_norm(hidden[:, -1] + found, found.shape[-1:])).relu()
        mean = (events * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        logits: torch.Tensor = self.classifier(torch.cat([events[:, -1], mean, attended], dim=1))
        return logits

    def _by_head(self, hidden: torch.Tensor) -> torch.Tensor:
        """[b, length, width] as [b, heads, length, width / heads]."""
        return hidden.reshape(*hidden.shape[:2], self.heads, -1).transpose(1, 2)
