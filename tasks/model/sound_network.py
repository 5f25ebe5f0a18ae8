"""The network for sounds: their spectrum over time, two convolutions, and what both are on average."""

from __future__ import annotations

import math

import torch
from torch import nn

_BANDS, _LOWEST = 40, 60.0  # of the spectrum: how many, and from how many hertz
_WINDOW, _STEP = 0.025, 0.01  # seconds
_FLOOR = 1e-8  # of power: 80 decibels under a full scale
_HEARD = 1e-6  # a frame's power from which on it counts as sound
_SPREAD = (
    32.0  # differences between bands are that small: the classifier is given them at the size of others
)


class SoundNetwork(nn.Module):
    """float32[b, 1, samples] from -1 to 1 to logits, float32[b, labels].

    The front end has nothing to learn: power in bands of the mel scale every hundredth of a second
    (Davis and Mermelstein 1980), as a logarithm. Norms are over groups of one example's own channels: a
    norm over the batch would mix examples. The classifier sees what mean,
    deviation and change over time are from band to band, and mean and deviation of what the convolutions
    find, in frames that hold sound: silence says how long a sound is, and no more.
    """

    window: torch.Tensor
    bands: torch.Tensor

    def __init__(self, *, rate: int, labels: list[str], width: int) -> None:
        super().__init__()
        self.made_of = {"rate": rate, "labels": labels, "width": width}
        window = round(_WINDOW * rate)
        self.step = round(_STEP * rate)
        self.points = 1 << (window - 1).bit_length()
        # Not in what is saved: they follow from the rate.
        self.register_buffer(
            "window", torch.hann_window(window, dtype=torch.float64).float(), persistent=False
        )
        self.register_buffer("bands", mel_bands(rate, self.points), persistent=False)
        self.filters = nn.Conv1d(_BANDS, width, 5, stride=2, padding=2)
        self.filters_norm = nn.GroupNorm(4, width)
        self.patterns = nn.Conv1d(width, width, 5, stride=2, padding=2)
        self.patterns_norm = nn.GroupNorm(4, width)
        self.classifier = nn.Linear(3 * (_BANDS - 1) + 2 * width, len(labels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        powers = self.spectrum(values[:, 0])
        heard = (powers.sum(1, keepdim=True) > _HEARD).float()
        levels = (powers + _FLOOR).log10() / 4 + 1
        found = self.filters_norm(self.filters(levels)).relu()
        found = self.patterns_norm(self.patterns(found)).relu()
        # The average spectrum is everyone's: what tells sounds apart is how it goes from band to band.
        mean, spread = moments(levels, heard)
        _, change = moments(levels[:, :, 1:] - levels[:, :, :-1], heard[:, :, 1:])
        shapes = [_SPREAD * (each[:, 1:] - each[:, :-1]) for each in (mean, spread, change)]
        logits: torch.Tensor = self.classifier(torch.cat([*shapes, *moments(found, heard[:, :, ::4])], 1))
        return logits

    def spectrum(self, sound: torch.Tensor) -> torch.Tensor:
        """Power by band and frame, float32[b, bands, frames], of float32[b, samples]: at most about 1."""
        waves = torch.stft(
            sound,
            self.points,
            hop_length=self.step,
            win_length=len(self.window),
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return self.bands @ (waves.abs() * (2 / self.window.sum())).square()


def moments(found: torch.Tensor, heard: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation over time of [b, c, t], where ``heard``, [b, 1, t], is 1: both [b, c]."""
    count = heard.sum(2).clamp(min=1)
    mean = (found * heard).sum(2) / count
    spread = ((found - mean[:, :, None]).square() * heard).sum(2) / count
    return mean, (spread + 1e-6).sqrt()


def mel_bands(rate: int, points: int) -> torch.Tensor:
    """Triangles over the mel scale, float32[bands, points / 2 + 1]: what of each frequency a band has.

    2595 log10(1 + f / 700) mels are f hertz, as HTK has it.
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (_LOWEST, rate / 2))
    mels = [low + (high - low) * place / (_BANDS + 1) for place in range(_BANDS + 2)]
    corners = [700 * (10 ** (mel / 2595) - 1) for mel in mels]
    hertz = torch.arange(points // 2 + 1, dtype=torch.float64) * rate / points
    found = [
        torch.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle)).clamp(min=0)
        for left, middle, right in zip(corners, corners[1:], corners[2:], strict=False)
    ]
    return torch.stack(found).float()
