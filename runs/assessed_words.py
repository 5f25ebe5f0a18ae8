"""What people are told of how sure a run's last model is."""

from __future__ import annotations

from runs.assessment import Assessment
from runs.formats import format_percent


def ensemble_title(found: Assessment) -> str:
    """What several adapters together are called: the last 3 together."""
    return f"the last {found.last - found.first + 1} together"


def certainty_sentence(found: Assessment) -> str:
    """How far the last adapter's answers can be trusted, in one sentence without a capital or an end."""
    one = found.alone
    together = ""
    if found.together is not None:
        off = format_percent(found.together.calibration_error)
        together = f" (that of {ensemble_title(found)} by {off})"
    return (
        f"confidence is off by {format_percent(one.calibration_error)} on average{together}; of "
        f"{one.answers:,} answers {format_percent(one.errors)} are wrong, of the surest half "
        f"{format_percent(dict(one.surest)[0.5])}"
    )


def distance_sentence(found: Assessment) -> str:
    """How far regions' edges are apart, by label; empty for a task without regions."""
    told = ", ".join(f"{label} {one.mean:.2f}" for label, one in found.distances.items())
    return f"Hausdorff distance (95 %, mean over cases) in {found.unit}: {told}" if told else ""


def certainty_lines(found: Assessment | None) -> list[str]:
    """The same for a terminal, a line each; none without an assessment."""
    if found is None:
        return []
    return [line for line in (certainty_sentence(found), distance_sentence(found)) if line]
