"""Tokenized examples, stored ragged: no padding until a batch is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.examples import Batch, Examples, offsets_of, positions

_BLANK_TOKENS = 2
UNTOLD = -1  # of a token that has no label


@dataclass(frozen=True, kw_only=True)
class TokenExamples(Examples):
    """n tokenized examples: example i is ``tokens[offsets[i]:offsets[i + 1]]``.

    ``tokens`` is int32[total], ``offsets`` int64[n + 1], ``labels`` int64[n] or None; batches are filled up
    with the token ``padding``, by which some models find a text's last token. ``learned``, bool[total], are
    the tokens that a model should say, where these are not all. ``targets``, float32[n, k], are numbers
    that a text has, and ``token_labels``, int64[total], the number of each token's label or ``UNTOLD``.
    ``branches``, int8[total], are for texts with one beginning and two endings, in this order: 0 for tokens
    of the beginning, 1 and 2 for those of each ending.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    padding: int = 0
    learned: NDArray[np.bool_] | None = None
    targets: NDArray[np.float32] | None = None
    token_labels: NDArray[np.int64] | None = None
    branches: NDArray[np.int8] | None = None

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def take(self, indices: NDArray[np.int64]) -> TokenExamples:
        places = positions(self.offsets, indices)
        return TokenExamples(
            tokens=self.tokens[places],
            offsets=offsets_of(self.sizes[indices]),
            labels=None if self.labels is None else self.labels[indices],
            padding=self.padding,
            learned=None if self.learned is None else self.learned[places],
            targets=None if self.targets is None else self.targets[indices],
            token_labels=None if self.token_labels is None else self.token_labels[places],
            branches=None if self.branches is None else self.branches[places],
        )

    def batch(
        self, indices: NDArray[np.int64], *, size: int | None = None, rows: int | None = None
    ) -> Batch:
        """Padded on the right: ``input_ids``, ``attention_mask``: int64[b, size]; ``labels``: int64[b].

        ``learned``, int64[b, size], is there if not all tokens are. So are ``targets``, float32[b, k],
        ``token_labels`` and ``branches``, int64[b, size], where examples have them.
        """
        blanks = max(0, (rows or 0) - len(indices))
        # Blank rows are short texts of padding: a row without any token would have no loss.
        lengths = np.concatenate([self.sizes[indices], np.full(blanks, _BLANK_TOKENS)])
        mask = np.arange(size or lengths.max())[None, :] < lengths[:, None]
        tokens = np.full(mask.shape, self.padding, np.int64)
        places, real = positions(self.offsets, indices), mask[: len(indices)]
        tokens[: len(indices)][real] = self.tokens[places]
        inputs = {
            "input_ids": torch.from_numpy(tokens),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        if self.labels is not None:
            labels = np.concatenate([self.labels[indices], np.zeros(blanks, np.int64)])
            inputs["labels"] = torch.from_numpy(labels)
        if self.learned is not None:
            learned = mask.astype(np.int64)  # a blank row's loss is nobody's, and must be a number
            learned[: len(indices)][real] = self.learned[places]
            inputs["learned"] = torch.from_numpy(learned)
        if self.targets is not None:
            none = np.zeros((blanks, *self.targets.shape[1:]), np.float32)
            inputs["targets"] = torch.from_numpy(np.concatenate([self.targets[indices], none]))
        if self.token_labels is not None:
            told = np.where(mask, 0, UNTOLD)  # as for what is learned
            told[: len(indices)][real] = self.token_labels[places]
            inputs["token_labels"] = torch.from_numpy(told)
        if self.branches is not None:
            branches = np.zeros_like(tokens)
            branches[: len(indices)][real] = self.branches[places]
            inputs["branches"] = torch.from_numpy(branches)
        return Batch(inputs=inputs, indices=indices, size=mask.shape[1])
