"""Tokens from the features that a classifier's head read: the gradient of its weight holds them.

A head that begins at zero gives every label the same probability. So one text's gradient is a multiple of
its features in each row of the weight, and the same multiple of 1 in the bias: their ratio is the features.
What text has them is then sought greedily, word by word, with the model; and words are exchanged while
that brings it nearer. Of a step of a few texts each row has a mixture; the difference of two rows has one
label's texts alone, where the other label has none.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from simulation.attack.readable_texts import ReadableTexts

# Words that are tried at each place of a text: those that by themselves come nearest.
_TRIED = 100
# Of these so many, which came nearest when all were looked at last: all are, as a text has doubled.
_KEPT = 25
# A text that comes no nearer by so many words more is long enough.
_PATIENCE = 3
# Rows that differ by less, over the longest, differ by rounding.
_ALIKE = 0.01
# What keeps directions in which words hardly differ from deciding, over the mean variance.
_RIDGE = 0.01

_Rows = NDArray[np.float64]


class TokenSearch:
    """Seeks a text by its features, as ``head``, a module of the base model, reads them.

    Features are compared in directions that are as wide as one-word texts differ in them.
    """

    def __init__(self, texts: ReadableTexts, *, head: str) -> None:
        self._texts, self._head = texts, head
        alone = self._features([[int(token)] for token in texts.vocabulary])
        self._mean, self._norm = alone.mean(0), float(np.linalg.norm(alone, axis=1).mean())
        values, vectors = np.linalg.eigh(np.cov(alone.T))
        self._evened = vectors / np.sqrt(np.maximum(values, 0.0) + _RIDGE * values.mean())
        self._alone = _unit((alone - self._mean) @ self._evened)

    def find(self, weight: _Rows, bias: _Rows | None) -> frozenset[int]:
        """The tokens of a text, from how far a step moved the head; none if nothing moved.

        ``weight`` is float64[labels, width] and ``bias`` float64[labels]. Without a bias the features'
        length is taken for that of a word's. Of the rows and their differences that is taken which is
        nearest to any one-word text.
        """
        candidates = [self._wanted(row, None if bias is None else bias[k]) for k, row in enumerate(weight)]
        longest = float(np.linalg.norm(weight, axis=1).max())
        for one, other in combinations(range(len(weight)), 2):
            row = weight[one] - weight[other]
            if np.linalg.norm(row) > _ALIKE * longest:
                apart = None if bias is None else bias[one] - bias[other]
                candidates.append(self._wanted(row, apart))
        wanted = [one for one in candidates if one is not None]
        if not wanted:
            return frozenset()
        rows = np.stack(wanted)
        chosen = rows[int((self._alone @ _unit(rows).T).max(0).argmax())]
        order = np.argsort(-(self._alone @ chosen), kind="stable")[:_TRIED]
        tried = [int(token) for token in self._texts.vocabulary[order]]
        found, nearest, kept = self._grown(tried, chosen)
        return frozenset(self._exchanged(found, nearest, kept, chosen))

    def _wanted(self, row: _Rows, bias: float | None) -> _Rows | None:
        """Features that a row of the gradient tells, as they are compared; None for a row of nothing."""
        length = float(np.linalg.norm(row))
        if not length or bias == 0.0:
            return None
        features = row * (self._norm / length) if bias is None else row / bias
        return np.asarray((features - self._mean) @ self._evened, np.float64)

    def _grown(self, tried: list[int], wanted: _Rows) -> tuple[list[int], float, list[int]]:
        """The nearest of texts that each have the best word more than the last, and how far it is.

        With them come the words that are worth a try in its places.
        """
        text, best, nearest, kept = list[int](), list[int](), np.inf, tried
        while len(text) < min(self._texts.most, len(best) + _PATIENCE):
            if len(text).bit_count() <= 1:
                kept = tried
            away = self._away([[*text, token] for token in kept], wanted)
            if float(away.min()) >= nearest and kept is not tried:
                kept = tried
                away = self._away([[*text, token] for token in kept], wanted)
            text = [*text, kept[int(away.argmin())]]
            if float(away.min()) < nearest:
                best, nearest = text, float(away.min())
            kept = [kept[int(place)] for place in np.argsort(away, kind="stable")[:_KEPT]]
        return best, nearest, kept

    def _exchanged(self, text: list[int], nearest: float, tried: list[int], wanted: _Rows) -> list[int]:
        """The text with each word in turn exchanged for the best, where that is nearer."""
        for place in range(len(text)):
            others = [[*text[:place], token, *text[place + 1 :]] for token in tried]
            away = self._away(others, wanted)
            if float(away.min()) < nearest:
                nearest, text = float(away.min()), others[int(away.argmin())]
        return text

    def _away(self, texts: list[list[int]], wanted: _Rows) -> _Rows:
        found = (self._features(texts) - self._mean) @ self._evened
        return np.asarray(np.linalg.norm(found - wanted, axis=1), np.float64)

    def _features(self, texts: list[list[int]]) -> _Rows:
        written = [self._texts.written(text) for text in texts]
        return self._texts.pooled(self._head, written).astype(np.float64)


def _unit(rows: _Rows) -> _Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30), np.float64)
