"""What packing a model's weights into fewer bits cost: how far they are off, and what it scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy.durable import BY_UMASK, write_durably
from runs.formats import format_bytes, format_measure
from tasks.measures import Measure

RECORD = "quantization.json"


@dataclass(frozen=True, kw_only=True)
class WeightsError:
    """How far packed weights are from the float32 ones: ‖Ŵ − W‖ / ‖W‖, Frobenius norms.

    ``whole`` is over all of the ``packed`` tensors together, ``most`` that of the one called ``worst``.
    """

    whole: float
    most: float
    worst: str
    packed: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Held-out loss, in nats a prediction, and the task's measures by name."""

    loss: float
    measures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the merged model scored ``before`` it was packed and ``after``, on so many held-out examples."""

    examples: int
    before: Scores
    after: Scores


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A model as it was written: in which ``kind``, how large, and what that cost.

    ``scheme`` says in a sentence what was packed how, ``loading`` how the folder is loaded. The bytes are
    of the float32 weights and of what was written. ``scored`` is None where ``unscored`` says why.
    """

    kind: str
    scheme: str
    loading: str
    bytes_before: int
    bytes_after: int
    weights: WeightsError
    scored: Scored | None
    unscored: str | None


def compared(quantized: Quantized, measures: Sequence[Measure]) -> Iterator[tuple[str, str, str]]:
    """Rows of (what, of the float32 model, of the packed one), for people."""
    scored = quantized.scored
    if scored is not None:
        yield "loss", f"{scored.before.loss:.4f}", f"{scored.after.loss:.4f}"
        for measure in measures:
            if measure.name == "loss":  # stands above, with more digits
                continue
            yield (
                measure.name,
                format_measure(scored.before.measures, measure),
                format_measure(scored.after.measures, measure),
            )
    yield "bytes", format_bytes(quantized.bytes_before), format_bytes(quantized.bytes_after)


def off_by(quantized: Quantized) -> str:
    """How far the weights are off, in a sentence without its full stop."""
    weights = quantized.weights
    return (
        f"The {weights.packed} packed tensors are off by {100 * weights.whole:.2f} % of their norm, "
        f"{weights.worst} the most with {100 * weights.most:.2f} %"
    )


def write_record(quantized: Quantized, folder: Path) -> None:
    """Write ``quantization.json``, which says the same for machines."""
    scored, weights = quantized.scored, quantized.weights
    table = {
        "kind": quantized.kind,
        "scheme": quantized.scheme,
        "bytes": {"float32": quantized.bytes_before, "written": quantized.bytes_after},
        "weights": {
            "packed": weights.packed,
            "relative_error": weights.whole,
            "largest": {"tensor": weights.worst, "relative_error": weights.most},
        },
        "held_out": None
        if scored is None
        else {
            "examples": scored.examples,
            "loss": {"float32": scored.before.loss, "quantized": scored.after.loss},
            "measures": {
                name: {"float32": value, "quantized": scored.after.measures[name]}
                for name, value in scored.before.measures.items()
            },
        },
        "not_scored": quantized.unscored,
    }
    content = json.dumps(table, indent=1, ensure_ascii=False).encode() + b"\n"
    write_durably(folder / RECORD, content, mode=BY_UMASK)
