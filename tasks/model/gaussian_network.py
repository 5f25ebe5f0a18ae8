"""A Gaussian over what a frozen projection makes of an example: how far from the usual each one is."""

from __future__ import annotations

import math

import torch
from torch import nn

_CONSTANT = 0.5  # the first number of each example, beside its features
_FLOOR = 0.05  # of the features' mean variance: no direction counts as narrower
_LEAST = 1e-6  # a variance, where nothing was fitted yet


class PublicFeatures(nn.Module):
    """float32[b, channels, ...] to x = (1/2, f), float32[b, 1 + features], with |x| <= 1.

    Means over ``parts`` are projected onto ``features`` directions that a seed drew, and shortened by
    sqrt(``scale``² + length²).
    """

    def __init__(self, *, channels: int, parts: list[int], features: int, scale: float) -> None:
        super().__init__()
        inputs = channels * math.prod(parts)
        self.scale = scale
        self.pool: nn.Module
        if len(parts) == 1:
            self.pool = nn.AdaptiveAvgPool1d(parts[0])
        else:
            self.pool = nn.AdaptiveAvgPool2d((parts[0], parts[1]))
        self.projection: torch.Tensor
        self.register_buffer("projection", _drawn_projection(inputs, min(features, inputs)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found = self.pool(values).flatten(1) @ self.projection.T
        length = (self.scale**2 + found.square().sum(1, keepdim=True)).sqrt()
        found = math.sqrt(1 - _CONSTANT**2) * found / length
        return torch.cat([found.new_full((len(found), 1), _CONSTANT), found], dim=1)


class GaussianFit(nn.Module):
    """x, float32[b, 1 + features], to float32[b, 2]: what the fit says of an example, and its distance.

    The one layer that is fitted holds a matrix S. The first column is the product of S and x·xᵀ, whose
    gradient is x·xᵀ, whatever S is: so a sum of gradients is a sum of x·xᵀ, in which an example weighs at
    most 1, and S is such a sum times a step's length. Its corner counts the examples, and S over the corner
    has their mean and their second moments: no length of steps, and no number of them, changes these. The
    second column is the squared Mahalanobis distance from the mean by that covariance.

    Noise makes some variances negative. What is below zero is noise alone, so no variance counts as smaller
    than the most negative one is large.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.size = features
        self.sums = nn.Linear((features + 1) * (features + 2) // 2, 1, bias=False)

    def fitted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and covariance of the features, float64[features] and float64[features, features]."""
        size = self.size + 1
        whole = self.sums.weight.new_zeros(size, size, dtype=torch.float64)
        rows, columns = torch.triu_indices(size, size)
        weights = self.sums.weight.detach()[0].double()
        whole[rows, columns] = torch.where(rows == columns, weights, weights / math.sqrt(2))
        whole[columns, rows] = whole[rows, columns]
        count = (whole[0, 0] / _CONSTANT**2).clamp(min=1e-12)
        mean = whole[0, 1:] / (_CONSTANT * count)
        return mean, whole[1:, 1:] / count - torch.outer(mean, mean)

    def distances(self, found: torch.Tensor) -> torch.Tensor:
        """Squared Mahalanobis distances, float64[b], of features, float32[b, 1 + features]."""
        mean, covariance = self.fitted()
        variances, directions = torch.linalg.eigh(covariance)
        noise, narrow = -float(variances[0]), _FLOOR * float(variances.clamp(min=0).mean())
        floor = max(noise, narrow, _LEAST)
        apart = (found[:, 1:].detach().double() - mean) @ directions
        squared: torch.Tensor = (apart.square() / variances.clamp(min=floor)).sum(1)
        return squared

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        rows, columns = torch.triu_indices(found.shape[1], found.shape[1])
        # Each pair off the diagonal once, at √2: lengths stay those of whole matrices.
        twice = torch.where(rows == columns, 1.0, math.sqrt(2)).to(found)
        said = self.sums(found[:, rows] * found[:, columns] * twice)
        return torch.cat([said, self.distances(found)[:, None].float()], dim=1)


class GaussianNetwork(nn.Module):
    """float32[b, channels, ...] to float32[b, 2]: a ``GaussianFit`` of ``PublicFeatures``."""

    def __init__(
        self, *, channels: int, labels: list[str], parts: list[int], features: int, scale: float
    ) -> None:
        super().__init__()
        shape = {"channels": channels, "parts": parts, "features": features, "scale": scale}
        self.made_of = {"labels": labels} | shape
        self.seen = PublicFeatures(channels=channels, parts=parts, features=features, scale=scale)
        self.fit = GaussianFit(len(self.seen.projection))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fit(self.seen(values))
        return found


def _drawn_projection(inputs: int, features: int) -> torch.Tensor:
    """Directions as rows, float32[features, inputs]; the identity if there are as many as inputs.

    They are rows of a Hadamard matrix with signs by columns: all numbers are one, up to the sign,
    so that no machine rounds otherwise, and rows are orthonormal where inputs are a power of two.
    Source: Ailon and Chazelle 2009.
    """
    if features == inputs:
        return torch.eye(inputs)
    size = 1 << (inputs - 1).bit_length()
    order, signs = torch.empty(size).uniform_(), torch.empty(size).uniform_()
    chosen = order.argsort()[:features].tolist()
    places = torch.tensor([[(row & column).bit_count() % 2 for column in range(inputs)] for row in chosen])
    flipped = (places + (signs[:inputs] < 0.5).long()) % 2
    return (1.0 - 2.0 * flipped) / math.sqrt(size)
