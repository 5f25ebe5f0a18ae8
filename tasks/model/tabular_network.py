"""The network for rows of a table: a linear part, and beside it what two hidden layers make of a row."""

from __future__ import annotations

import torch
from torch import nn


class TabularNetwork(nn.Module):
    """float32[b, inputs] to logits, float32[b, labels].

    The last layer sees the row itself and the hidden layers' output side by side: under noise the linear
    part is learned first, and the other when there is signal for it. Source: Cheng et al. 2016, Wide & Deep
    (arXiv:1606.07792).
    """

    def __init__(self, *, inputs: int, labels: list[str], width: int) -> None:
        super().__init__()
        self.made_of = {"inputs": inputs, "labels": labels, "width": width}
        self.first = nn.Linear(inputs, width)
        self.second = nn.Linear(width, width)
        self.classifier = nn.Linear(inputs + width, len(labels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.first(values).relu()).relu()
        logits: torch.Tensor = self.classifier(torch.cat([values, hidden], dim=1))
        return logits
