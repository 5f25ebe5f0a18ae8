"""Networks for images with words: what an image says and the words' vector, under one linear layer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


class JointClassifier(nn.Module):
    """Features, float32[b, features], words, float32[b, words], and seen, float32[b], to logits.

    An example's features are divided by their own length, as a vector of words has length 1, and both
    are multiplied by their public ``weights``, of the image and of the words. A gradient of the layer is
    what it reads times what its answer is off by: so weights say how much of the gradient's length, which
    is clipped, is each modality's. Where ``seen`` is 0 there is no image, and its features are zero.
    """

    # Beside a squared length: near nothing, features stay short and their gradients bounded.
    least = 1e-4

    def __init__(self, *, labels: list[str], features: int, words: int, weights: list[float]) -> None:
        super().__init__()
        self.made_of = {"labels": labels, "features": features, "words": words, "weights": weights}
        self.weights = weights
        self.classifier = nn.Linear(features + words, len(labels))

    def forward(self, features: torch.Tensor, words: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        features = features.float()
        length = (features.square().sum(1) + self.least).sqrt()
        image = features * (seen / length)[:, None]
        logits: torch.Tensor = self.classifier(
            torch.cat([self.weights[0] * image, self.weights[1] * words], 1)
        )
        return logits


class NotedNetwork(nn.Module):
    """Pixels, float32[b, channels, size, size], words and seen to logits, float32[b, labels].

    Of pixels two convolutions make features, each at half the size, as means over ``parts`` by ``parts``
    squares. Norms are over groups of one example's own channels, and what is passed on is bounded, so that
    fewer gradients are cut (Papernot et al. 2020, arXiv:2007.14191).
    """

    def __init__(
        self,
        *,
        channels: int,
        labels: list[str],
        width: int,
        parts: int,
        words: int,
        weights: list[float],
    ) -> None:
        super().__init__()
        self.made_of = {"channels": channels, "labels": labels, "width": width, "parts": parts}
        self.made_of |= {"words": words, "weights": weights}
        # As in the network for images alone: an export's program is this file and no other.
        self.edges = nn.Conv2d(channels, width, 5, stride=2, padding=2)
        self.edges_norm = nn.GroupNorm(4, width)
        self.shapes = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.shapes_norm = nn.GroupNorm(4, 2 * width)
        self.pool = nn.AdaptiveAvgPool2d(parts)
        features = 2 * width * parts * parts
        self.joint = JointClassifier(labels=labels, features=features, words=words, weights=weights)

    def forward(self, values: torch.Tensor, words: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        found = self.edges_norm(self.edges(values)).tanh()
        found = self.shapes_norm(self.shapes(found)).tanh()
        logits: torch.Tensor = self.joint(self.pool(found).flatten(1), words, seen)
        return logits


class NotedTrunk(nn.Module):
    """An image classifier of transformers' with a ``JointClassifier`` after all but its last layer.

    That one, ``replaced``, passes on what it reads. Pixels as the trunk reads them, words and seen become
    ``logits``, float32[b, labels].
    """

    base_model_prefix = "trunk"  # as libraries ask of whatever has a config

    def __init__(self, trunk: Any, joint: JointClassifier, *, replaced: str) -> None:
        super().__init__()
        trunk.set_submodule(replaced, nn.Identity())
        self.config, self.made_of, self.replaced = trunk.config, joint.made_of, replaced
        self.trunk, self.joint = trunk, joint

    def forward(self, values: torch.Tensor, words: torch.Tensor, seen: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.joint(self.trunk(values).logits, words, seen))
