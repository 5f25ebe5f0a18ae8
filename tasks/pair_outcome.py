"""What a model makes of pictures with words: how well each fits its own caption, among others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.measures import Measure
from tasks.task import Outcome

if TYPE_CHECKING:
    import torch

_MOST = 10  # places that count as found


@dataclass(frozen=True, kw_only=True)
class PairOutcome(Outcome):
    """An outcome with ``ranks``, int64[b]: places of the own captions, from 1; ties count against them."""

    ranks: torch.Tensor

    @classmethod
    def of(
        cls,
        own: torch.Tensor,
        others: torch.Tensor,
        *,
        alike: torch.Tensor,
        pulled: torch.Tensor | None = None,
    ) -> PairOutcome:
        """Each picture's score with its ``own`` caption, float32[b], and with the bank's, float32[b, k].

        The loss is the cross-entropy of its own one among it and every second caption of the bank; the
        rank is among it and the other half, so that what is learned against the one half says nothing of
        the other. Captions of the bank that are ``alike``, bool[b, k], are its own and no others. What a
        pair is ``pulled`` by, float32[b], is added to its loss. Source: Oord et al. 2018
        (arXiv:1807.03748), equation 4, with fixed negatives.
        """
        import torch

        others = others.masked_fill(alike, float("-inf"))
        trained, asked = others[:, 0::2], others[:, 1::2]
        ranks = 1 + (asked >= own[:, None]).sum(1)
        losses = torch.cat([own[:, None], trained], 1).logsumexp(1) - own
        return cls(
            losses=losses if pulled is None else losses + pulled,
            correct=(ranks <= _MOST).long(),
            counted=torch.ones_like(ranks),
            ranks=ranks,
        )

    def sums(self) -> dict[str, float]:
        """Beside the counts of all tasks, how often the own caption comes first."""
        return {**super().sums(), "first": float((self.ranks == 1).sum())}


def divergence(similar: torch.Tensor, scores: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """How far pictures' attention to a bank of captions is from that of their own captions: float32[b].

    ``similar``, float32[b, k], says how near each own caption is to those of the bank; its softmax at the
    ``temperature`` is what the softmax of a picture's ``scores``, float32[b, k], is to be. Told is the
    Kullback-Leibler divergence of the first from the second, in nats, over every second caption of the
    bank, which are trained against. A row alone decides about its own; one whose caption is near none,
    as of a blank pair, has 0. Targets are as private as captions are. Source: Hinton et al. 2015
    (arXiv:1503.02531), equation 1, for softened targets.
    """
    near = similar[:, 0::2]
    wanted, found = (near / temperature).log_softmax(1), scores[:, 0::2].log_softmax(1)
    return (wanted.exp() * (wanted - found)).sum(1) * near.any(1)


def _first(sums: Mapping[str, float]) -> float:
    return sums["first"] / sums["counted"]


def _among_ten(sums: Mapping[str, float]) -> float:
    return sums["correct"] / sums["counted"]


RECALL_10 = Measure(name="recall_at_10", title="recall@10", of=_among_ten, share=True, by_example=True)
RECALL_1 = Measure(name="recall_at_1", title="recall@1", of=_first, share=True, by_example=True)
