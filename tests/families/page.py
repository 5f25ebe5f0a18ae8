"""The page of the documentation that says which families work, made of the table that the tests run."""

from __future__ import annotations

from collections.abc import Iterable

from tests.families.family import Family
from tests.families.trial_names import ALL_LINEAR, CAUSAL, CLASSIFIER, MEAN, TASKS, TOP, TRIALS

COLUMNS = {
    CLASSIFIER: "classifier",
    MEAN: "mean",
    CAUSAL: "causal-lm",
    TOP: "upper layers",
    ALL_LINEAR: "all-linear",
}

_HEAD = """\
# Models

What works with transformers {version}, as `tests/families` tries it. Each family is a tiny checkpoint
with random weights, saved as a class that hubs ship; `tools/models_page.py` writes this page from the
tests' table.

- **classifier**: `task = "sequence-classification"`; **mean**: the same with `model.pooling = "mean"`;
  **causal-lm**: `task = "causal-lm"`. Where it says yes, the gradient of each example of a batch is
  autograd's on that example alone, to 1e-5; training lowers the loss, and repeats bit for bit; two loads
  have one digest; and the exported, merged model gives the same logits when transformers loads it.
- **upper layers**: `adapter.layers_to_transform = "top 50%"`. *Kept*: what the frozen layers make of an
  example is computed once, and gives the same gradients. Elsewhere it is computed each time.
- **all-linear**: `adapter.target_modules = ["all-linear"]`, which leaves out layers that no text uses; the
  other columns are for the modules named here.
- *One by one*: hooks would find gradients of something else than examples, so each example is computed by
  itself, which takes longer.
- A number is a refusal by name, before anything is trained: the list is below the table.

Adapters on a mixture's routed experts are described in [experts.md](experts.md), base models in four or
eight bits in [quantization.md](quantization.md).

Another family, or other modules, may well work: a site tries a model on made-up examples before it trains
it, and refuses what would not protect one example.

{families} families: of {pairs} combinations of family and task {works} work and {refused} are refused.
"""


def render(families: Iterable[Family], *, version: str) -> str:
    """The whole page, for the version of transformers that the table was tried with."""
    families = tuple(families)
    reasons = {reason.key: reason for family in families for reason in family.refused.values()}
    numbers = {key: number for number, key in enumerate(sorted(reasons), start=1)}
    head = [
        *_HEAD.format(version=version, families=len(families), **_counts(families)).splitlines(),
        "",
        f"| family | saved as | modules | {' | '.join(COLUMNS.values())} |",
        "|" + "---|" * (3 + len(COLUMNS)),
    ]
    rows = [_row(family, numbers) for family in families]
    tail = ["", "## Refusals", ""]
    tail += [f"{numbers[key]}. {reasons[key].about}" for key in sorted(reasons)]
    return "\n".join([*head, *rows, *tail]) + "\n"


def _row(family: Family, numbers: dict[str, int]) -> str:
    modules = ", ".join(f"`{target}`" for target in family.targets)
    cells = (_cell(family, trial, numbers) for trial in TRIALS)
    return f"| {family.name} | `{family.saved}` | {modules} | {' | '.join(cells)} |"


def _cell(family: Family, trial: str, numbers: dict[str, int]) -> str:
    if trial in family.refused:
        return f"no ({numbers[family.refused[trial].key]})"
    told = ["yes"]
    if trial == TOP and family.kept:
        told.append("kept")
    if trial in family.one_by_one:
        told.append("one by one")
    return ", ".join(told)


def _counts(families: tuple[Family, ...]) -> dict[str, int]:
    refused = sum(task in family.refused for family in families for task in TASKS)
    pairs = len(families) * len(TASKS)
    return {"pairs": pairs, "works": pairs - refused, "refused": refused}
