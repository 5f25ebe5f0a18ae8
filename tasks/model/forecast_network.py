"""The network that tells a series' next numbers: how much each differs from the last one that is known."""

from __future__ import annotations

import torch
from torch import nn


class ForecastNetwork(nn.Module):
    """float32[b, 2 · channels, context] to forecasts, float32[b, horizon, levels].

    Inputs are channels from -1 to 1, then 1 where each is there. What is forecast is ``channel``, in its
    own unit, in which it goes over ``range``: by how much each number to come differs from the last one
    that is known, at each of ``levels``. The last layer sees what the convolutions find in each of
    ``parts`` of the context, and the context itself as means over ``places``, less that last number. Norms
    are over groups of one example's own channels.
    """

    def __init__(
        self,
        *,
        channels: int,
        channel: int,
        range: list[float],
        horizon: int,
        levels: list[str],
        width: int,
        parts: int,
        places: int,
    ) -> None:
        super().__init__()
        self.made_of = {
            "channels": channels,
            "channel": channel,
            "range": range,
            "horizon": horizon,
            "levels": levels,
            "width": width,
            "parts": parts,
            "places": places,
        }
        self.channel, self.horizon = channel, horizon
        self.low, self.high = range
        self.filters = nn.Conv1d(2 * channels, width, 5, padding=2)
        self.filters_norm = nn.GroupNorm(4, width)
        self.patterns = nn.Conv1d(width, width, 5, padding=2)
        self.patterns_norm = nn.GroupNorm(4, width)
        self.pool = nn.AdaptiveAvgPool1d(parts)
        self.context = nn.AdaptiveAvgPool1d(places)
        self.forecast = nn.Linear(width * parts + 2 * channels * places, horizon * len(levels))

    def last_known(self, values: torch.Tensor) -> torch.Tensor:
        """The last number of the channel that is there, from -1 to 1, float32[b, 1]; 0 where none is."""
        numbers, there = values[:, self.channel], values[:, self.channel + values.shape[1] // 2]
        places = torch.arange(1, numbers.shape[1] + 1, device=values.device)
        last = (there * places).argmax(1, keepdim=True)
        return numbers.gather(1, last)

    def in_unit(self, scaled: torch.Tensor) -> torch.Tensor:
        """Numbers from -1 to 1 as what they stand for."""
        return self.low + (scaled + 1) / 2 * (self.high - self.low)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        last = self.last_known(values)
        found = self.filters_norm(self.filters(values)).relu()
        found = found + self.patterns_norm(self.patterns(found)).relu()
        numbers, there = values.chunk(2, dim=1)
        level = torch.zeros_like(numbers)
        level[:, self.channel] = last
        shown = torch.cat([numbers - level * there, there], dim=1)
        seen = torch.cat([self.pool(found).flatten(1), self.context(shown).flatten(1)], dim=1)
        changes: torch.Tensor = self.forecast(seen).reshape(len(values), self.horizon, -1)
        return self.in_unit(last[:, :, None] + changes)
