"""Tokens from the span of what the lowest layer read: at B = 0 the gradient of B is s · Σ g (A x)ᵀ.

Its rows lie in the span of A x over a text's tokens x. Where there are fewer tokens than the adapter has
ranks, that span is no whole space: the words of the vocabulary that lie in it are the text's. Where there
are as many, every word lies in it, and the test tells nothing.

Source: Petrov et al. 2024, DAGER (arXiv:2405.15586), section 4.1, on gradients of full weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betainc  # type: ignore[import-untyped]

from privacy.errors import UserError
from protocol.job.layout import AdapterLayout
from simulation.attack.readable_texts import ReadableTexts, module_of

# What float32 leaves of a singular value that should be 0, over the largest.
_SMALL = 1e-5
# How far a word of the text may be from the span, over its length: rounding alone.
_NEAR = 1e-3
# Of all that are no words of a text, so many may be as near by chance.
_BY_CHANCE = 0.1


class TokenSpan:
    """Words as the lowest layers' A shows them, at each place of a text where that matters.

    ``adapter`` is the one that the step began with, by tensor. Raises UserError where no adapted layer
    reads words as they are: deeper layers read what attention mixed.
    """

    def __init__(
        self,
        texts: ReadableTexts,
        layout: AdapterLayout,
        adapter: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self._texts = texts
        lowest = [pair for pair in layout.pairs if _reads_words(texts, module_of(pair.b))]
        if not lowest:
            raise UserError(
                "expected an adapter on a layer that reads words as they are: what deeper layers read is "
                "mixed by attention, and the span tells no words; try adapter.layers_to_transform=[0]"
            )
        # Layers that read the same words, as queries and values do, are looked at through each one's A.
        self._pairs = lowest
        # Where layers know places, a word is looked at in each.
        places = 1 if all(_forgets_places(texts, module_of(pair.b)) for pair in lowest) else texts.most
        repeated = [[int(token)] * places for token in texts.vocabulary]
        self._seen: dict[str, NDArray[np.float32]] = {}
        for pair in lowest:
            a = torch.from_numpy(adapter[pair.a].astype(np.float32))
            parts = [
                (found.float().cpu() @ a.T).numpy()
                for found in texts.inputs_of(module_of(pair.b), [texts.written(t) for t in repeated])
            ]
            self._seen[pair.b] = np.concatenate(parts)

    def find(self, moved: Mapping[str, NDArray[np.float64]]) -> frozenset[int]:
        """The words in the span of what a step moved, by tensor; none where it is the whole space."""
        found = np.zeros(len(self._texts.vocabulary), bool)
        for pair in self._pairs:
            _, values, rows = np.linalg.svd(moved[pair.b], full_matrices=False)
            kept = int((values > _SMALL * values[0]).sum()) if values[0] > 0 else 0
            seen = self._seen[pair.b]
            left = seen.shape[-1] - kept
            if not kept or not left:
                continue
            basis = rows[:kept].astype(np.float32)
            rest = seen - (seen @ basis.T) @ basis
            away = np.linalg.norm(rest, axis=-1) / np.maximum(np.linalg.norm(seen, axis=-1), 1e-30)
            # Of directions at random, the squared distance from a span has a beta distribution.
            chance = betainc(left / 2, kept / 2, np.minimum(away, 1.0) ** 2)
            found |= ((away < _NEAR) & (chance < _BY_CHANCE / away.size)).any(axis=1)
        return frozenset(int(token) for token in self._texts.vocabulary[found])


def _forgets_places(texts: ReadableTexts, module: str) -> bool:
    """Whether what a module reads of a word is the same wherever it stands."""
    (found,) = texts.inputs_of(module, [[int(texts.vocabulary[0])] * 2])
    return bool(torch.allclose(found[0, 0], found[0, 1], atol=1e-5))


def _reads_words(texts: ReadableTexts, module: str) -> bool:
    """Whether what a module reads at a place depends on the token there alone."""
    first, second, third = (int(token) for token in texts.vocabulary[[0, len(texts.vocabulary) // 2, -1]])
    one, other = texts.written([first, second, third]), texts.written([third, second, first])
    (found,) = texts.inputs_of(module, [one, other])
    if found.dim() != 3:
        return False
    place = one.index(second)
    return bool(torch.allclose(found[0, place], found[1, place], atol=1e-5))
