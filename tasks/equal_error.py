"""The equal error rate: what a detector gets wrong where it misses as often as it raises a false alarm."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.label_outcome import scores_by_label
from tasks.measures import Measure


def equal_error_rate(sums: Mapping[str, float]) -> float:
    """The mean over the labels that some examples have and some have not; 0.5 where there is none.

    Of a threshold on a label's score, false alarms are the share of the examples without the label above
    it, and misses that of those with it below it. Between two scores both change in proportion, so that the
    rate is where the line between them crosses. Source: ISO/IEC 19795-1; Martin et al. 1997.
    """
    rates = [rate for scores in scores_by_label(sums) if (rate := _crossing(scores)) is not None]
    return sum(rates) / len(rates) if rates else 0.5


def _crossing(scores: Mapping[int, list[float]]) -> float | None:
    """Where misses are as many as false alarms, as the threshold rises; None with one kind alone."""
    absent, present = (sum(one[kind] for one in scores.values()) for kind in (0, 1))
    if not absent or not present:
        return None
    alarms, misses = 1.0, 0.0
    for step in sorted(scores):
        without, having = scores[step][0] / absent, scores[step][1] / present
        if misses + having >= alarms - without:
            share = (alarms - misses) / (without + having)
            return misses + share * having
        alarms, misses = alarms - without, misses + having
    return None  # not reached: at the end there are misses alone


EQUAL_ERROR = Measure(
    name="equal_error", title="equal error rate", of=equal_error_rate, share=True, lower_is_better=True
)
