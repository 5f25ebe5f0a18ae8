"""Tokenized examples, stored ragged: no padding until a batch is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_BLANK_TOKENS = 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A padded batch. ``tokens`` and ``mask`` are int64[b, t]; ``labels`` int64[b] or None.

    The first rows are the examples at ``indices``; rows after them are blank and stand for nobody.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor | None
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            tokens=self.tokens.to(device),
            mask=self.mask.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            indices=self.indices,
        )

    def apart(self) -> Iterator[Batch]:
        """Each example in a batch of this very shape, with blank rows in the others' places.

        Where the batch has no blank row, its own is repeated.
        """
        for row, index in enumerate(self.indices):
            blank = len(self.indices) if len(self) > len(self.indices) else row
            rows = torch.tensor([row] + [blank] * (len(self) - 1))
            yield Batch(
                tokens=self.tokens[rows],
                mask=self.mask[rows],
                labels=None if self.labels is None else self.labels[rows],
                indices=np.array([index]),
            )


@dataclass(frozen=True, kw_only=True)
class Examples:
    """n tokenized examples: example i is ``tokens[offsets[i]:offsets[i + 1]]``.

    One without tokens is blank: it counts as an example, and whoever makes batches leaves it out.
    ``tokens`` is int32[total], ``offsets`` int64[n + 1], ``labels`` int64[n] or None; batches are
    filled up with the token ``padding``, by which some models find a text's last token.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    padding: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def without_blanks(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the examples at ``indices`` that hold anything."""
        return indices[self.lengths[indices] > 0]

    def take(self, indices: NDArray[np.int64]) -> Examples:
        """The examples at ``indices``, in that order."""
        lengths = self.lengths[indices]
        return Examples(
            tokens=self.tokens[token_positions(self.offsets, indices)],
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            labels=None if self.labels is None else self.labels[indices],
            padding=self.padding,
        )

    def batch(
        self, indices: NDArray[np.int64], *, width: int | None = None, rows: int | None = None
    ) -> Batch:
        """Pad the examples at ``indices`` on the right, to ``width`` or the longest among them.

        None of them may be blank. Rows that stand for nobody bring their number up to ``rows``.
        """
        blanks = max(0, (rows or 0) - len(indices))
        # Blank rows are short texts of padding: a row without any token would have no loss.
        lengths = np.concatenate([self.lengths[indices], np.full(blanks, _BLANK_TOKENS)])
        mask = np.arange(width or lengths.max())[None, :] < lengths[:, None]
        tokens = np.full(mask.shape, self.padding, np.int64)
        tokens[: len(indices)][mask[: len(indices)]] = self.tokens[token_positions(self.offsets, indices)]
        labels = None
        if self.labels is not None:
            labels = torch.from_numpy(np.concatenate([self.labels[indices], np.zeros(blanks, np.int64)]))
        return Batch(
            tokens=torch.from_numpy(tokens),
            mask=torch.from_numpy(mask.astype(np.int64)),
            labels=labels,
            indices=indices,
        )

    def batches(self, indices: NDArray[np.int64], *, size: int) -> Iterator[Batch]:
        """Physical batches of at most ``size``, similar lengths together so that little is padded."""
        by_length = indices[np.argsort(self.lengths[indices], kind="stable")]
        for start in range(0, len(by_length), size):
            yield self.batch(by_length[start : start + size])


def token_positions(offsets: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of all tokens of the examples at ``indices``, example after example."""
    lengths = offsets[indices + 1] - offsets[indices]
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    positions: NDArray[np.int64] = np.repeat(offsets[indices], lengths) + within
    return positions
