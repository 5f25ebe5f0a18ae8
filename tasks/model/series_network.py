"""The network for series: two convolutions over time, then what they find in each part of the series."""

from __future__ import annotations

import torch
from torch import nn


class SeriesNetwork(nn.Module):
    """float32[b, inputs, length] to logits, float32[b, labels].

    Norms are over groups of one example's own channels: a norm over the batch would mix examples. The
    classifier sees the means over ``parts`` equal parts of the series, so that it knows when something was.
    """

    def __init__(self, *, inputs: int, labels: list[str], width: int, parts: int) -> None:
        super().__init__()
        self.made_of = {"inputs": inputs, "labels": labels, "width": width, "parts": parts}
        self.filters = nn.Conv1d(inputs, width, 5, padding=2)
        self.filters_norm = nn.GroupNorm(4, width)
        self.patterns = nn.Conv1d(width, width, 5, padding=2)
        self.patterns_norm = nn.GroupNorm(4, width)
        self.pool = nn.AdaptiveAvgPool1d(parts)
        self.classifier = nn.Linear(width * parts, len(labels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found = self.filters_norm(self.filters(values)).relu()
        found = found + self.patterns_norm(self.patterns(found)).relu()
        logits: torch.Tensor = self.classifier(self.pool(found).flatten(1))
        return logits
