"""Numbers as people read them, on the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tasks.measures import Measure


def format_epsilon(value: float | None) -> str:
    """ε to two decimals, or two digits below 0.1, rounded up: it is an upper bound."""
    if value is None:
        return "unbounded"
    decimals = 2 if value >= 0.1 or value <= 0 else 1 - math.floor(math.log10(value))
    # The slack keeps 3.00 from becoming 3.01 by the last bit of a float.
    return f"{math.ceil(value * 10**decimals - 1e-6) / 10**decimals:.{decimals}f}"


def format_left(epsilon: float) -> str:
    """ε that is left, rounded down: it is promised to be there."""
    return f"{math.floor(max(0.0, epsilon) * 100 + 1e-6) / 100:.2f}"


def format_lower(epsilon: float) -> str:
    """A lower bound on ε to two decimals, rounded down: ε is shown to be that much."""
    return f"{math.floor(epsilon * 100 + 1e-6) / 100:.2f}"


def format_delta(value: float) -> str:
    """δ as people write it: 1e-5."""
    return f"{value:g}".replace("e-0", "e-")


def format_percent(share: float) -> str:
    """A share as a percentage with one decimal: 67.4 %."""
    return f"{100 * share:.1f} %"


def format_points(difference: float) -> str:
    """How far two shares are apart, whichever is larger: 2.6 points, 25 points."""
    points = abs(100 * difference)
    return f"{points:.1f} points" if points < 9.95 else f"{points:.0f} points"


def format_count(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things: 1 site, 4 sites."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def format_bytes(count: float) -> str:
    """A number of bytes in decimal units: 12.3 kB."""
    size, unit = byte_unit(count)
    value = count / size
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def byte_unit(largest: float) -> tuple[float, str]:
    """The decimal unit that suits a number of bytes: its size in bytes, and its name."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return next(((size, name) for size, name in units if largest >= size), (1.0, "B"))


def format_seconds(seconds: float) -> str:
    """A duration: 4.2 s, 1 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_cost(run: float, attack: float) -> str:
    """Processor seconds of a run and its attack: 10.0 s for the run, 2.0 s for the attack (×1.20)."""
    times = f" (×{(run + attack) / run:.2f})" if run > 0 else ""
    return f"{run:.1f} s for the run, {attack:.1f} s for the attack{times}"


def format_measure(measures: Mapping[str, float], measure: Measure) -> str:
    """One of a round's held-out measures: a percentage, or with as many digits as tell something.

    A dash for one that an older version, which finished the round, did not know.
    """
    value = measures.get(measure.name)
    if value is None:
        return "–"
    if measure.share:
        return format_percent(value)
    return f"{value:.3f}" if value < 10 else f"{value:,.1f}" if value < 1e6 else f"{value:.3g}"
