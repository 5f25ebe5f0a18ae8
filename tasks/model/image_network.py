"""The network for images: two convolutions, each at half the size, and a linear layer on what they find."""

from __future__ import annotations

import torch
from torch import nn


class ImageNetwork(nn.Module):
    """float32[b, channels, size, size] to logits, float32[b, labels].

    Norms are over groups of one example's own channels: a norm over the batch would mix examples. What is
    passed on is bounded, so that fewer gradients are cut (Papernot et al. 2020, arXiv:2007.14191). The
    classifier sees means over ``parts`` by ``parts`` squares, so that any size will do.
    """

    def __init__(
        self, *, channels: int, labels: list[str], width: int, parts: int, passes_on: str = "tanh"
    ) -> None:
        super().__init__()
        if passes_on != "tanh":
            raise ValueError(f'passes_on: expected "tanh", got "{passes_on}"')
        self.made_of = {"channels": channels, "labels": labels, "width": width, "parts": parts}
        self.made_of["passes_on"] = passes_on  # in the digest: other networks have the same tensors
        self.edges = nn.Conv2d(channels, width, 5, stride=2, padding=2)
        self.edges_norm = nn.GroupNorm(4, width)
        self.shapes = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.shapes_norm = nn.GroupNorm(4, 2 * width)
        self.pool = nn.AdaptiveAvgPool2d(parts)
        self.classifier = nn.Linear(2 * width * parts * parts, len(labels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found = self.edges_norm(self.edges(values)).tanh()
        found = self.shapes_norm(self.shapes(found)).tanh()
        logits: torch.Tensor = self.classifier(self.pool(found).flatten(1))
        return logits
