r"""Writes public trees for credit.toml, and the loans that are left: credit-trees.txt and credit-rest.csv.

Of credit.csv 1,000 loans stand for public ones. LightGBM learns small trees from their numbers, and no site
has them. It is needed here alone, in an environment of its own:

    pip install lightgbm
    python examples/credit_trees.py
    confide simulate examples/credit.toml --set data.source=credit-rest.csv \
        --set data.trees=credit-trees.txt
"""

from __future__ import annotations

import argparse
import csv
import tomllib
from pathlib import Path

import lightgbm
import numpy as np

HERE = Path(__file__).parent
PUBLIC, SEED = 1000, 0
MISSING = ("", "NA")
# Few and small: each tree makes a row longer, and what is longer is clipped more.
MADE = {"objective": "binary", "num_leaves": 8, "learning_rate": 0.1, "min_data_in_leaf": 20}
MADE |= {"seed": SEED, "deterministic": True, "num_threads": 1, "verbose": -1}


def write(folder: Path, *, trees: int) -> int:
    """Write both files beside credit.csv; how many loans are left."""
    with (folder / "credit.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = list(tomllib.loads((HERE / "credit.toml").read_text("utf-8"))["data"]["numbers"])
    order = np.random.default_rng(SEED).permutation(len(rows))
    public = [rows[place] for place in order[:PUBLIC]]
    numbers = [[float("nan") if row[c] in MISSING else float(row[c]) for c in columns] for row in public]
    bad = [row["Status"] == "bad" for row in public]
    data = lightgbm.Dataset(np.array(numbers), np.array(bad), feature_name=columns)
    lightgbm.train(MADE, data, num_boost_round=trees).save_model(folder / "credit-trees.txt")
    rest = [rows[place] for place in sorted(order[PUBLIC:])]
    with (folder / "credit-rest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rest[0]))
        writer.writeheader()
        writer.writerows(rest)
    return len(rest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE)
    parser.add_argument("--trees", type=int, default=10)
    chosen = parser.parse_args()
    left = write(chosen.folder, trees=chosen.trees)
    print(f"Wrote {chosen.trees} trees of {PUBLIC:,} loans, and {left:,} others, to {chosen.folder}")
