"""Updates as integers: a grid that every site shares, so that their sum can be taken under masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PlanError, ProtocolError
from privacy.mechanisms.clipping import ClippedIntegers, clip
from privacy.mechanisms.rng import NoiseSource
from privacy.mechanisms.skellam import IntegerSensitivity, rounded_sensitivity, scale_for_modulus
from privacy.secagg.hadamard import SEED_BYTES, block_size, rotate, rotate_back
from privacy.secagg.ring import Ring, Words

# Deviations of a coordinate of the sum that fit on each side of 0. A coordinate of a signal, rounding and
# noise that are subgaussian wraps around with a probability of at most 2·exp(-18) = 3e-8; a Gaussian one
# with 2e-9.
DEVIATIONS = 6.0
# Up to here a float64 has room for an integer and a fraction of ½, and nobody's integers overflow int64.
_LARGEST = 2.0**52
# Up to this deviation Skellam noise can be drawn: noise.py's limit on its variance is 2^52.
_LARGEST_DEVIATION = 2.0**26
# An attempt at rounding fails with probability at most β = e^-½: 89 of them in a row with 2^-64.2.
_BETA, _ATTEMPTS = math.exp(-0.5), 89
_BLOCK = 1 << 14  # numbers that are rounded at once: what a block needs stays in the processor's cache
# What a public number of a plan may be, as in clipping.py: squares and quotients stay finite.
_NUMBER_MIN, _NUMBER_MAX = 1e-12, 1e12


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """A grid for vectors of ``dimension`` float32 numbers, in integers modulo 2^bits of ``ring``.

    ``scale`` is in grid steps per unit of update. ``reach``, in units of update, is where coordinates are
    cut off on each side of 0; with None they are not, and a sum of them may wrap around. ``rotation``
    is the public seed of the rotation that goes before, or None. All four are public and the same for all
    sites of a sum. Raises PlanError for numbers that make no grid, ProtocolError for another seed.
    """

    ring: Ring
    dimension: int
    scale: float
    reach: float | None = None
    rotation: bytes | None = None

    def __post_init__(self) -> None:
        positive = (self.scale,) if self.reach is None else (self.scale, self.reach)
        if self.dimension < 1 or not all(0.0 < number < math.inf for number in positive):
            raise PlanError(
                "expected dimension >= 1, and scale and reach above 0 and finite, got "
                f"dimension={self.dimension}, scale={self.scale}, reach={self.reach}"
            )
        if self.rotation is not None and len(self.rotation) != SEED_BYTES:
            raise ProtocolError(f"expected a rotation of {SEED_BYTES} bytes, got {len(self.rotation)}")

    def integers(self, update: NDArray[np.float32], source: NoiseSource) -> NDArray[np.int64]:
        """An update that is private already, float32[d], on the grid: int64[d].

        Rounding is stochastic: an integer's expectation is the number that it stands for, unless that was
        cut. Raises ProtocolError for another length, or numbers that are not finite.
        """
        self._check(update)
        if not np.isfinite(update).all():
            raise ProtocolError("an update holds NaN or infinity: lower training.learning_rate")
        return _rounded(self._on_grid(update), _generator(source))

    def clipped_integers(
        self, update: NDArray[np.float32], *, clipping_norm: float, source: NoiseSource
    ) -> ClippedIntegers:
        """Clip a site's update, float32[d], and put it on the grid, no longer than ``sensitivity`` says.

        Rounding is stochastic and repeated until the integers are short enough. Whatever the rotation's
        own rounding does, the bound is one of the integers and holds. An update that is not finite
        becomes zero. Raises ProtocolError for another length, and what ``clip`` raises.

        Source: Kairouz, Liu and Steinke 2021 (arXiv:2102.06387), algorithm 1 and Proposition 22.
        """
        self._check(update)
        bound = self.sensitivity(clipping_norm).l2
        clipped = self._on_grid(clip(update, bound=clipping_norm, norm=2).reals)
        generator = _generator(source)
        for _ in range(_ATTEMPTS):
            found = _rounded(clipped, generator)
            if float(np.linalg.norm(found.astype(np.float64))) <= bound:
                return ClippedIntegers(value=found, bound=bound)
        # Nobody comes here by chance. Towards zero no number grows, so the bound holds in any case: what is
        # lost is that the expectation is right.
        return ClippedIntegers(value=np.trunc(clipped).astype(np.int64), bound=bound)

    def sensitivity(self, clipping_norm: float) -> IntegerSensitivity:
        """What one site of L2 norm ``clipping_norm`` adds to the sum at most, in grid steps.

        Noise for the sum is calibrated from this: it is a little more than ``clipping_norm · scale``.
        Raises PlanError for a norm that is not positive.
        """
        return rounded_sensitivity(
            l2_bound=clipping_norm * self.scale, dimension=self.dimension, beta=_BETA
        )

    def words(self, integers: NDArray[np.int64]) -> Words:
        """int64[d] modulo 2^bits: what masks are added to. Raises ProtocolError for another length."""
        self._check(integers)
        return self.ring.words(integers)

    def mean(self, words_of_sum: Words, *, count: int) -> NDArray[np.float32]:
        """The sum of ``count`` sites' words as the mean of their updates: float32[d].

        ``count`` is public. Raises ProtocolError for another length, or a count below 1.
        """
        return self.decode(self.centred(words_of_sum).astype(np.float64), count=count)

    def centred(self, words_of_sum: Words) -> NDArray[np.int64]:
        """A sum's words as the integers around 0 that they stand for. Raises ProtocolError as ``words``."""
        self._check(words_of_sum)
        return self.ring.centred(words_of_sum)

    def decode(self, numbers: NDArray[np.float64], *, count: int) -> NDArray[np.float32]:
        """The sum of ``count`` sites' integers, with noise or without, as a mean of updates: float32[d].

        Raises ProtocolError for another length, or a count below 1.
        """
        self._check(numbers)
        if count < 1:
            raise ProtocolError(f"expected a mean of at least one update, got count={count}")
        found = numbers / (self.scale * count)
        back = found if self.rotation is None else rotate_back(found, self.rotation)
        return back.astype(np.float32)

    def _on_grid(self, update: NDArray[np.floating]) -> NDArray[np.float64]:
        """Rotated, cut and scaled, float64[d]: integers are missing."""
        turned = update.astype(np.float64) if self.rotation is None else rotate(update, self.rotation)
        most = _LARGEST if self.reach is None else min(self.reach * self.scale, _LARGEST)
        turned *= self.scale  # in place: memory that is new costs more than the product
        return np.clip(turned, -most, most, out=turned)

    def _check(self, vector: NDArray[np.generic]) -> None:
        if vector.shape != (self.dimension,):
            raise ProtocolError(f"expected a vector of {self.dimension} numbers, got shape={vector.shape}")


def example_encoding(
    *,
    bits: int,
    sites: int,
    dimension: int,
    signal_l2: float,
    noise_std: float,
    largest: float,
    rotation_seed: bytes,
) -> Encoding:
    """The grid for updates that are private before they are encoded (``unit = "example"``).

    In units of update, of one site: ``signal_l2`` bounds the L2 norm without noise, ``noise_std`` is the
    noise's deviation in a coordinate, ``largest`` bounds the size of a coordinate with noise. They are
    public numbers; if an update breaks them it costs accuracy, not privacy.

    With 32 bits what is beyond ``largest`` is cut off, and a sum of ``sites`` updates never wraps around.
    With 16 or 20 bits updates are rotated, nothing is cut off, and a coordinate of the sum wraps around
    with a probability of at most 3e-8 (``DEVIATIONS``), over seeds that the updates do not depend on.
    Raises PlanError for a modulus that is too small, and for numbers out of range.
    """
    _check_sizes(bits, sites, dimension)
    _check_numbers(signal_l2=signal_l2, largest=largest)
    _check_numbers(0.0, noise_std=noise_std)
    if bits == 32:
        steps = _share_of_words(sites) - 1.0  # rounding adds less than one
        if steps <= 0.0:
            raise PlanError(f"expected a modulus with room for every site, got bits={bits}, sites={sites}")
        scale = steps / largest
        return Encoding(ring=Ring(bits), dimension=dimension, scale=scale, reach=largest)
    scale = scale_for_modulus(
        bits=bits,
        sites=sites,
        dimension=block_size(dimension),
        clipping_norm=signal_l2,
        noise_multiplier=math.sqrt(sites) * noise_std / signal_l2,
        deviations=DEVIATIONS,
    )
    return Encoding(ring=Ring(bits), dimension=dimension, scale=scale, rotation=rotation_seed)


def site_encoding(
    *,
    bits: int,
    sites: int,
    dimension: int,
    clipping_norm: float,
    noise_multiplier: float,
    rotation_seed: bytes,
) -> Encoding:
    """The grid for updates that the sum's noise hides as a whole (``unit = "site"``).

    ``noise_multiplier`` is σ of all noise that may be in the sum of ``sites`` over
    ``sensitivity(clipping_norm).l2``, 0 if none is added to integers. Updates are rotated; a coordinate of
    the noisy sum is taken as subgaussian and wraps around with a probability of at most 3e-8
    (``DEVIATIONS``), over seeds that the updates do not depend on. That costs accuracy, and no privacy of
    noise that is added to integers. Noise that is added to a decoded sum hides nobody where the sum
    wrapped around before: with 32 bits it never does so without noise, with fewer bits it may.

    Raises PlanError for a modulus that is too small for the rounding and what noise it asks for, and
    for numbers out of range.

    Source: Agarwal, Kairouz and Liu 2021 (arXiv:2110.04995), section 4.1, with the noise that the
    rounded update asks for instead of the update itself.
    """
    _check_sizes(bits, sites, dimension)
    _check_numbers(clipping_norm=clipping_norm)
    _check_numbers(0.0, noise_multiplier=noise_multiplier)
    root, variance = math.sqrt(dimension), noise_multiplier**2
    # With b = clipping_norm · scale, a coordinate of the sum has a variance of at most (sites · b)²/2^k of
    # signal, sites/4 of rounding, and noise_multiplier² · (b² + b + d/4 + √d/2) of noise (Proposition 22).
    # The b for which DEVIATIONS of its deviation are 2^bits/2 solves square · b² + variance · b = room.
    square = sites**2 / block_size(dimension) + variance
    room = (2.0**bits / (2.0 * DEVIATIONS)) ** 2 - sites / 4.0 - variance * (dimension / 4.0 + root / 2.0)
    likely = 2.0 * room / (variance + math.sqrt(variance**2 + 4.0 * square * room)) if room > 0.0 else 0.0
    # A site's integers are not longer than b + √d: noise for them can be drawn, and with 32 bits they fit.
    longest = _LARGEST_DEVIATION / noise_multiplier if noise_multiplier > 0.0 else math.inf
    if bits == 32:
        longest = min(longest, _share_of_words(sites))
    scaled = min(likely, longest - root)
    if scaled <= 0.0:
        raise PlanError(
            f"expected a modulus with room for the rounding and its noise, got bits={bits}, sites={sites}, "
            f"dimension={dimension}, noise_multiplier={noise_multiplier}: take more bits or less noise"
        )
    return Encoding(
        ring=Ring(bits), dimension=dimension, scale=scaled / clipping_norm, rotation=rotation_seed
    )


def _share_of_words(sites: int) -> float:
    """How far ``sites`` integers may each be from 0 so that their sum is in [-(2^31 - 1), 2^31 - 1]."""
    return (2.0**31 - 1.0) / sites


def _check_sizes(bits: int, sites: int, dimension: int) -> None:
    if bits not in (16, 20, 32) or sites < 1 or dimension < 1:
        raise PlanError(
            "expected updates in 16, 20 or 32 bits, at least one site and one dimension, got "
            f"bits={bits}, sites={sites}, dimension={dimension}"
        )


def _check_numbers(least: float = _NUMBER_MIN, **numbers: float) -> None:
    for name, number in numbers.items():
        if not least <= number <= _NUMBER_MAX:
            raise PlanError(f"expected a number in [{least:g}, {_NUMBER_MAX:g}], got {name}={number}")


def _generator(source: NoiseSource) -> np.random.Generator:
    # Rounding hides nothing: the bounds that privacy rests on hold whatever it draws. So what it draws
    # need not be secret.
    return np.random.Generator(np.random.SFC64(source.seed()))


def _rounded(numbers: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Each number's floor or the integer after it, such that the expectation is the number (to 2^-53)."""
    found = np.empty(len(numbers), np.int64)
    for start in range(0, len(numbers), _BLOCK):
        block = numbers[start : start + _BLOCK]
        low = np.floor(block)
        found[start : start + _BLOCK] = low + (generator.random(len(block)) < block - low)
    return found
