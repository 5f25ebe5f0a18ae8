"""The networks for series: what they find over time, and what is told by it, a label or the next numbers.

Convolutions find it, an LSTM, or the layers of a transformer over patches. An export has this file, whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_NEVER = -1e4  # a score that attention gives no weight to


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


def _parts(length: int, *, most: int) -> tuple[int, int]:
    """Into how many moments each, and into how many parts, a series is cut: at most so many."""
    size = math.ceil(length / most)
    return size, math.ceil(length / size)


def _means(values: torch.Tensor, size: int) -> torch.Tensor:
    """float32[b, 2 · channels, length] over parts of ``size`` moments; before the first of all is none.

    A number is the mean of those that are there, and beside it stands what share of the part is.
    """
    if size == 1:
        return values
    padded = functional.pad(values, (-values.shape[2] % size, 0))
    parts = padded.reshape(*padded.shape[:2], padded.shape[2] // size, size).sum(3)
    numbers, flags = parts.chunk(2, dim=1)
    return torch.cat([numbers / flags.clamp(min=1), flags / size], dim=1)


class LstmBody(nn.Module):
    """float32[b, 2 · channels, length] to float32[b, 2 · width]: what attention finds in an LSTM's states.

    One learned query weighs the states, and the last state stands beside what it finds. A longer series is
    seen as ``_means`` over at most ``steps`` parts. A step at which no channel is there leaves the state as
    it was, and has no weight. Gates are linear layers, so that all rows of a batch can have weights of
    their own.

    Sources: Hochreiter and Schmidhuber 1997, with gates that begin by keeping what they have (Jozefowicz et
    al. 2015); Bahdanau et al. 2015 (arXiv:1409.0473) for attention over states.
    """

    def __init__(self, *, channels: int, length: int, width: int, steps: int) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.size, self.steps = _parts(length, most=steps)
        self.features = 2 * width
        self.given = nn.Linear(2 * channels, 4 * width)
        self.recurrent = nn.Linear(width, 4 * width, bias=False)
        self.query = nn.Linear(width, 1, bias=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        steps = _means(values, self.size).transpose(1, 2)
        there = steps[..., self.channels :].amax(2) > 0
        given = self.given(steps)
        state = memory = values.new_zeros(len(values), self.width)
        states = []
        for step in range(self.steps):
            added, kept, shown, new = (given[:, step] + self.recurrent(state)).chunk(4, dim=1)
            changed = (kept + 1).sigmoid() * memory + added.sigmoid() * new.tanh()
            here = there[:, step, None]
            memory = torch.where(here, changed, memory)
            state = torch.where(here, shown.sigmoid() * memory.tanh(), state)
            states.append(state)
        found = torch.stack(states, dim=1)
        scores = self.query(found).squeeze(2).masked_fill(~there, _NEVER)
        attended = (scores.softmax(1)[:, :, None] * found).sum(1)
        return torch.cat([attended, state], dim=1)


class PatchBody(nn.Module):
    """float32[b, 2 · channels, length] to float32[b, features], by a transformer over patches of channels.

    Each channel is cut into up to ``patches`` patches of 4 moments or more, which attend to one another; a
    series of more than ``places`` moments is seen as ``_means`` over at most so many parts. All channels
    have the same weights, and none sees another. What each patch became is a feature: zeros, where nothing
    is there. Positions are fixed waves, and norms have nothing to learn: so all layers are linear, and
    every row of a batch can have weights of its own.

    Source: Nie et al. 2023 (arXiv:2211.14730), section 3.1, with norms before the layers.
    """

    def __init__(
        self,
        *,
        channels: int,
        length: int,
        width: int,
        heads: int,
        layers: int,
        patches: int,
        places: int,
    ) -> None:
        super().__init__()
        self.size, self.places = _parts(length, most=places)
        self.patch = max(4, math.ceil(self.places / patches))
        self.patches = math.ceil(self.places / self.patch)
        self.features = channels * self.patches * width
        self.embedding = nn.Linear(2 * self.patch, width)
        self.layers = nn.ModuleList(_PatchLayer(width, heads) for _ in range(layers))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        seen = _means(values, self.size)
        # What is before the first moment is missing.
        seen = functional.pad(seen, (self.patches * self.patch - self.places, 0))
        numbers, flags = seen.reshape(*seen.shape[:2], self.patches, self.patch).chunk(2, dim=1)
        there = flags.amax(3) > 0
        # What all series have alike, such as that all of it is there, would drown what they have not.
        tokens = self.embedding(torch.cat([numbers, 1 - flags], dim=3))
        tokens = tokens + _waves(tokens) / 4
        for layer in self.layers:
            tokens = layer(tokens, there)
        return (_normed(tokens) * there[..., None]).flatten(1)


class _PatchLayer(nn.Module):
    """Attention among tokens, float32[b, channels, n, width], and two linear layers on each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attended = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, tokens: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        made = self.attended(_normed(tokens))
        # [b, channels, n, 3 · width] to three of [b, channels, heads, n, width / heads].
        split = made.reshape(*made.shape[:3], 3, self.heads, made.shape[3] // (3 * self.heads))
        query, key, value = split.permute(3, 0, 1, 4, 2, 5)
        scores = query @ key.transpose(3, 4) / key.shape[4] ** 0.5
        weights = scores.masked_fill(~there[:, :, None, None], _NEVER).softmax(-1)
        tokens = tokens + self.mixed((weights @ value).transpose(2, 3).flatten(3))
        changed: torch.Tensor = tokens + self.narrow(functional.gelu(self.wide(_normed(tokens))))
        return changed


def _normed(tokens: torch.Tensor) -> torch.Tensor:
    """Each token by its own mean and deviation."""
    return functional.layer_norm(tokens, tokens.shape[-1:])


def _waves(tokens: torch.Tensor) -> torch.Tensor:
    """Where each of n tokens is, float32[n, width]: sines and cosines (arXiv:1706.03762, section 3.5)."""
    count, width = tokens.shape[-2:]
    each = width // 2
    rates = torch.exp(torch.arange(each, device=tokens.device) * (-math.log(100.0) / each))
    angles = torch.arange(count, device=tokens.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(tokens.dtype)


_BODIES: Mapping[str, Any] = {"lstm": LstmBody, "patches": PatchBody}


class BodyNetwork(nn.Module):
    """float32[b, 2 · channels, length] to logits, float32[b, labels], by the body named ``network``.

    Inputs are channels from -1 to 1, then 1 where each is there; ``sizes`` are the body's own.
    """

    def __init__(
        self, *, network: str, channels: int, length: int, sizes: dict[str, int], labels: list[str]
    ) -> None:
        super().__init__()
        self.made_of = {
            "network": network,
            "channels": channels,
            "length": length,
            "sizes": sizes,
            "labels": labels,
        }
        self.body = _BODIES[network](channels=channels, length=length, **sizes)
        self.classifier = nn.Linear(self.body.features, len(labels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.body(values))
        return logits


class _Forecast(nn.Module):
    """What tells the next numbers begins with: float32[b, 2 · channels, context], and the last one known.

    Inputs are channels from -1 to 1, then 1 where each is there. What is forecast is ``channel``, in its
    own unit, in which it goes over ``range``: by how much each number to come differs from the last one
    that is known.
    """

    def __init__(self, *, channel: int, range: list[float], horizon: int) -> None:
        super().__init__()
        self.channel, self.horizon = channel, horizon
        self.low, self.high = range

    def last_known(self, values: torch.Tensor) -> torch.Tensor:
        """The last number of the channel that is there, from -1 to 1, float32[b, 1]; 0 where none is."""
        numbers, there = values[:, self.channel], values[:, self.channel + values.shape[1] // 2]
        places = torch.arange(1, numbers.shape[1] + 1, device=values.device)
        last = (there * places).argmax(1, keepdim=True)
        return numbers.gather(1, last)

    def in_unit(self, scaled: torch.Tensor) -> torch.Tensor:
        """Numbers from -1 to 1 as what they stand for."""
        return self.low + (scaled + 1) / 2 * (self.high - self.low)

    def _less(self, values: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """The inputs, of which the channel is less its last number where it is there."""
        numbers, there = values.chunk(2, dim=1)
        level = torch.zeros_like(numbers)
        level[:, self.channel] = last
        return torch.cat([numbers - level * there, there], dim=1)

    def _changed(self, last: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
        """Forecasts, float32[b, horizon, levels], by changes of all of them in a row."""
        return self.in_unit(last[:, :, None] + changes.reshape(len(changes), self.horizon, -1))


class ForecastNetwork(_Forecast):
    """float32[b, 2 · channels, context] to forecasts, float32[b, horizon, levels], by convolutions.

    The last layer sees what the convolutions find in each of ``parts`` of the context, and the context
    itself as means over ``places``, less the last number that is known. It tells a change at each of
    ``levels``. Norms are over groups of one example's own channels.
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
        super().__init__(channel=channel, range=range, horizon=horizon)
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
        self.filters = nn.Conv1d(2 * channels, width, 5, padding=2)
        self.filters_norm = nn.GroupNorm(4, width)
        self.patterns = nn.Conv1d(width, width, 5, padding=2)
        self.patterns_norm = nn.GroupNorm(4, width)
        self.pool = nn.AdaptiveAvgPool1d(parts)
        self.context = nn.AdaptiveAvgPool1d(places)
        self.forecast = nn.Linear(width * parts + 2 * channels * places, horizon * len(levels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        last = self.last_known(values)
        found = self.filters_norm(self.filters(values)).relu()
        found = found + self.patterns_norm(self.patterns(found)).relu()
        shown = self._less(values, last)
        seen = torch.cat([self.pool(found).flatten(1), self.context(shown).flatten(1)], dim=1)
        return self._changed(last, self.forecast(seen))


class BodyForecast(_Forecast):
    """float32[b, 2 · channels, context] to forecasts, float32[b, horizon, levels], by a body.

    The last layer sees what the body named ``network`` finds, and the context itself as means over
    ``places``. Both are given the context less the last number that is known.
    """

    def __init__(
        self,
        *,
        network: str,
        channels: int,
        length: int,
        sizes: dict[str, int],
        channel: int,
        range: list[float],
        horizon: int,
        levels: list[str],
        places: int,
    ) -> None:
        super().__init__(channel=channel, range=range, horizon=horizon)
        self.made_of = {
            "network": network,
            "channels": channels,
            "length": length,
            "sizes": sizes,
            "channel": channel,
            "range": range,
            "horizon": horizon,
            "levels": levels,
            "places": places,
        }
        self.body = _BODIES[network](channels=channels, length=length, **sizes)
        self.context = nn.AdaptiveAvgPool1d(places)
        self.forecast = nn.Linear(self.body.features + 2 * channels * places, horizon * len(levels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        last = self.last_known(values)
        shown = self._less(values, last)
        seen = torch.cat([self.body(shown), self.context(shown).flatten(1)], dim=1)
        return self._changed(last, self.forecast(seen))
