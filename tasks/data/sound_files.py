"""Sound files as people have them: samples at one public rate and length, or why there are none."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.data.named_files import FileKind, UnreadableFileError

# What a longer one would take to unpack: 64 million samples in all channels, 23 minutes of a concert.
MOST_SAMPLES = 1 << 26
# From half a telephone's to a laboratory's: the filter between two rates grows with them.
RATES = (4_000, 384_000)
_WAVE, _FLAC = (b"RIFF", b"RIFX", b"RF64"), b"fLaC"
_DAMAGED = "is damaged, or was not written whole"
_TOO_LONG = f"has more than {MOST_SAMPLES:,} samples"

# Samples of one channel, float32[n] from -1 to 1, and how many of them a second has.
Sound: TypeAlias = tuple[NDArray[np.float32], int]


@dataclass(frozen=True, order=True)
class SoundFile:
    """A sound by the SHA-256 of rate and samples, as hex: two files with the same are one example."""

    digest: str
    path: Path = field(compare=False)


def find_sound(path: Path) -> SoundFile:
    """The sound in a file. Raises UnreadableFileError."""
    samples, rate = read_sound(path)
    return SoundFile(hashlib.sha256(f"{rate}".encode() + samples.tobytes()).hexdigest(), path)


SOUNDS = FileKind(called="sounds", suffixes=(".wav", ".flac"), find=find_sound)


def read_sound(path: Path) -> Sound:
    """A file's samples, the mean of its channels, and its rate.

    Floating-point numbers beyond -1 and 1 are cut off there. Raises UnreadableFileError for what is empty,
    damaged, cut off, of another format, compressed with losses, or longer than 64 million samples.
    """
    try:
        if not path.stat().st_size:
            raise UnreadableFileError("is empty")
        with path.open("rb") as file:
            begins = file.read(4)
        if begins == _FLAC:
            samples, rate = _read_flac(path)
        elif begins in _WAVE:
            samples, rate = _read_wave(path)
        else:
            raise UnreadableFileError("is no WAV or FLAC")
    except UnreadableFileError:
        raise
    except FileNotFoundError:
        raise UnreadableFileError("is not there") from None
    except Exception:  # decoders raise whatever they like on damaged files
        raise UnreadableFileError(_DAMAGED) from None
    if not RATES[0] <= rate <= RATES[1]:
        raise UnreadableFileError(f"has {rate:,} samples a second, expected {RATES[0]:,} to {RATES[1]:,}")
    if samples.size > MOST_SAMPLES:
        raise UnreadableFileError(_TOO_LONG)
    if not samples.size:
        raise UnreadableFileError("holds no samples")
    if not np.isfinite(samples).all():
        raise UnreadableFileError("holds samples that are no finite numbers")
    mixed = np.clip(samples, -1.0, 1.0).mean(axis=1, dtype=np.float64)
    return mixed.astype(np.float32), rate


def _read_wave(path: Path) -> tuple[NDArray[Any], int]:
    """Samples by channel, [n, channels] from -1 to 1, of a file of uncompressed numbers."""
    from scipy.io import wavfile  # type: ignore[import-untyped]

    if path.stat().st_size > 8 * MOST_SAMPLES:  # before it is read: a sample has eight bytes at most
        raise UnreadableFileError(_TOO_LONG)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except ValueError as error:
        if str(error).startswith("Unknown wave file format"):
            raise UnreadableFileError("is compressed, as A-law or ADPCM are: save it as PCM") from None
        raise
    if any("prematurely" in str(warning.message) for warning in told):
        raise UnreadableFileError(_DAMAGED)
    samples = samples[:, None] if samples.ndim == 1 else samples
    if samples.dtype.kind == "u":
        return (samples.astype(np.float64) - 128.0) / 128.0, int(rate)
    if samples.dtype.kind == "i":
        return samples / float(-np.iinfo(samples.dtype).min), int(rate)
    return samples, int(rate)


def _read_flac(path: Path) -> tuple[NDArray[Any], int]:
    """The same of a file that is packed without losses."""
    try:
        import soundfile
    except ImportError:
        raise UnreadableFileError("is FLAC, which needs soundfile: pip install 'confide[audio]'") from None
    head = soundfile.info(path)
    if head.frames * head.channels > MOST_SAMPLES:
        raise UnreadableFileError(_TOO_LONG)
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if len(samples) != head.frames:
        raise UnreadableFileError(_DAMAGED)
    return samples, int(rate)


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """What a model hears in place of samples: ``bands`` of the mel scale in each of so many ``frames``.

    A frame is found of ``points`` samples, and the next one begins a ``step`` of samples later.
    """

    bands: int
    frames: int
    points: int
    step: int


@dataclass(frozen=True, kw_only=True)
class SoundShape:
    """What sounds become: ``rate`` samples a second of 16 bits, for the first ``seconds``.

    A model that wants them ``standardized`` is given each sound less its mean, at a deviation of 1; one
    that hears a ``spectrum`` is given that of them.
    """

    rate: int
    seconds: float
    standardized: bool = False
    spectrum: Spectrum | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return 1, round(self.rate * self.seconds)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the network's channel says, in words."""
        return (f"sound, from -1 to 1, {self.rate} samples a second; 0 after its end",)

    def encode(self, contents: Iterable[SoundFile | None]) -> NDArray[np.int16]:
        """Sounds as int16[n, 1, samples]; one that can no longer be read becomes zeros."""
        whole = list(contents)
        found = np.zeros((len(whole), *self.shape), np.int16)
        for place, content in enumerate(whole):
            try:
                if content is not None:
                    found[place, 0] = self.fitted(*read_sound(content.path))
            except (OSError, ValueError):
                continue  # its row decides about itself alone, and it was readable when the data were read
        return found

    def fitted(self, samples: NDArray[np.float32], rate: int) -> NDArray[np.int16]:
        """Samples at the public rate, cut to the public length; silence after a shorter sound's end."""
        from scipy import signal  # type: ignore[import-untyped]

        length = self.shape[1]
        kept = samples[: math.ceil(length * rate / self.rate)]
        if rate != self.rate:
            shared = math.gcd(rate, self.rate)
            kept = signal.resample_poly(kept.astype(np.float64), self.rate // shared, rate // shared)
        found = np.zeros(length, np.int16)
        whole = np.rint(np.clip(kept[:length] * 32768.0, -32768, 32767))
        found[: len(whole)] = whole
        return found

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        table: dict[str, Any] = {
            "rate": self.rate,
            "seconds": self.seconds,
            "standardized": self.standardized,
        }
        return table if self.spectrum is None else table | {"spectrum": asdict(self.spectrum)}
