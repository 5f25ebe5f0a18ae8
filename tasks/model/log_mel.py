"""The spectrum that Whisper hears in place of samples: power in bands of the mel scale, as a logarithm."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from tasks.data.sound_files import Spectrum

_LEAST = 1e-10  # of power
_RANGE = 8.0  # what is so many powers of ten under a sound's loudest place counts as that
_HIGHEST = 8000.0  # hertz, of the highest band


def log_mel(sound: torch.Tensor, spectrum: Spectrum, *, rate: int) -> torch.Tensor:
    """Samples, float32[b, samples] from -1 to 1, as float32[b, bands, frames].

    What comes after a sound's end is silence, up to the model's length. Each sound's own loudest place
    decides what is silence in it, and no other's. Source: Radford et al. 2022 (arXiv:2212.04356), section
    2.2, as transformers' ``WhisperFeatureExtractor`` computes it.
    """
    padded = functional.pad(sound.float(), (0, spectrum.frames * spectrum.step - sound.shape[1]))
    window = torch.hann_window(spectrum.points, device=sound.device)
    waves = torch.stft(padded, spectrum.points, spectrum.step, window=window, return_complex=True)
    bands = _bands(spectrum, rate).to(sound.device)
    levels = (bands @ waves[..., :-1].abs().square()).clamp(min=_LEAST).log10()
    loudest = levels.amax((1, 2), keepdim=True)
    return (torch.maximum(levels, loudest - _RANGE) + 4.0) / 4.0


@lru_cache(maxsize=8)
def _bands(spectrum: Spectrum, rate: int) -> torch.Tensor:
    """What of each frequency a band has, float32[bands, points / 2 + 1]; each batch needs it."""
    from transformers.audio_utils import mel_filter_bank

    found = mel_filter_bank(
        num_frequency_bins=1 + spectrum.points // 2,
        num_mel_filters=spectrum.bands,
        min_frequency=0.0,
        max_frequency=_HIGHEST,
        sampling_rate=rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(found.T).float()
