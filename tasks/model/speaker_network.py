"""A frozen encoder of voices, and on what it makes of a sound a linear layer."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

RATE = 16_000  # samples a second
_BANDS, _POINTS, _STEP = 40, 400, 160  # of the spectrum: bands, and samples of a frame and to the next one
_WIDTH, _LAYERS = 256, 3
_FRAMES, _NEXT = 160, 77  # of a part of a sound, and to the next one: 1.3 parts a second
_COVERED = 3 * _FRAMES * _STEP // 4  # so much of a sound's last part is sound, or there is none
_QUIET = 10 ** (-30 / 20)  # what is quieter on average is made as loud: 30 decibels under a full scale
# Slaney's scale: hertz by mel below the place where logarithms begin, and mels by their factor above it.
_HERTZ_A_MEL, _FROM, _MELS_A_FACTOR = 200 / 3, 1000.0, 27 / math.log(6.4)


class SpeakerNetwork(nn.Module):
    """float32[b, 1, samples] from -1 to 1, 16,000 a second, to logits, float32[b, labels].

    Parts of 1.6 seconds are heard by an LSTM, whose last state becomes a vector of length 1; a sound's is
    the mean of its parts', at length 1. A sound ends with its last sample that is not 0. All parts of a
    batch are computed, and those after a sound's end do not count: so it is the same however much silence
    is behind it. Nothing is cut out of a sound, as silences are by Resemblyzer's own ``preprocess_wav``.

    Source: Wan et al. 2018 (arXiv:1710.10467), section 3.1; the numbers are those of Resemblyzer 0.1.4,
    whose weights fit.
    """

    window: torch.Tensor
    bands: torch.Tensor

    def __init__(self, *, labels: list[str]) -> None:
        super().__init__()
        self.made_of = {"labels": labels}
        # Not in what is saved: they are the same for all sounds.
        self.register_buffer("window", torch.hann_window(_POINTS), persistent=False)
        self.register_buffer("bands", slaney_bands(), persistent=False)
        self.lstm = nn.LSTM(_BANDS, _WIDTH, _LAYERS, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)
        self.classifier = nn.Linear(_WIDTH, len(labels))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        # In bfloat16 powers would be off by a hundredth; it is computed once a sound.
        with torch.autocast(values.device.type, enabled=False):
            found = self.voices(values[:, 0].float())
        logits: torch.Tensor = self.classifier(found)
        return logits

    def voices(self, sound: torch.Tensor) -> torch.Tensor:
        """What voices sound like in float32[b, samples]: float32[b, width], each of length 1."""
        places = torch.arange(1, sound.shape[1] + 1, device=sound.device)
        lengths = ((sound != 0) * places).amax(1)
        count = int(count_parts(torch.tensor(sound.shape[1])))
        starts = torch.arange(count, device=sound.device) * _NEXT
        behind = (int(starts[-1]) + _FRAMES) * _STEP - sound.shape[1]
        heard = functional.pad(louder(sound, lengths), (0, max(behind, 0)))
        frames = starts[:, None] + torch.arange(_FRAMES, device=sound.device)
        parts = self.spectrum(heard).transpose(1, 2)[:, frames]
        _, (hidden, _) = self.lstm(parts.flatten(0, 1))
        found = functional.normalize(self.linear(hidden[-1]).relu(), dim=1)
        counted = torch.arange(count, device=sound.device) < count_parts(lengths)[:, None]
        found = found.reshape(-1, count, _WIDTH) * counted[:, :, None]
        return functional.normalize(found.sum(1), dim=1)

    def spectrum(self, sound: torch.Tensor) -> torch.Tensor:
        """Power by band and frame, float32[b, bands, frames], of float32[b, samples]."""
        waves = torch.stft(
            sound,
            _POINTS,
            hop_length=_STEP,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return self.bands @ waves.abs().square()


def count_parts(lengths: torch.Tensor) -> torch.Tensor:
    """Of how many parts sounds of so many samples are, at least one: int64 of any shape."""
    steps = (lengths // _STEP + 2 - _FRAMES + _NEXT).clamp(min=1)
    count = (steps + _NEXT - 1) // _NEXT
    last = lengths - (count - 1) * _NEXT * _STEP
    return count - ((last < _COVERED) & (count > 1)).long()


def louder(sound: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Sounds, float32[b, samples], of which quiet ones are made as loud as others, by their mean power."""
    power = sound.square().sum(1) / lengths.clamp(min=1)
    return sound * (_QUIET / power.sqrt().clamp(min=1e-12)).clamp(min=1.0)[:, None]


def slaney_bands() -> torch.Tensor:
    """Triangles over Slaney's mel scale, each of area 1 in hertz: float32[bands, points / 2 + 1]."""
    first = _FROM / _HERTZ_A_MEL
    highest = first + math.log(RATE / 2 / _FROM) * _MELS_A_FACTOR
    mels = [highest * place / (_BANDS + 1) for place in range(_BANDS + 2)]
    corners = [
        mel * _HERTZ_A_MEL if mel < first else _FROM * math.exp((mel - first) / _MELS_A_FACTOR)
        for mel in mels
    ]
    hertz = torch.arange(_POINTS // 2 + 1, dtype=torch.float64) * RATE / _POINTS
    found = [
        torch.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle)).clamp(min=0)
        * (2 / (right - left))
        for left, middle, right in zip(corners, corners[1:], corners[2:], strict=False)
    ]
    return torch.stack(found).float()
