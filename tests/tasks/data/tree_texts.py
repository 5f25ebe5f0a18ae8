"""Boosted trees as LightGBM's text: some that it wrote itself, and small ones by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# What LightGBM 4.7.0 saved, without parameters, with rows and their leaves by its predict(pred_leaf=True):
# trained with NaN as missing ("nan"), with zero_as_missing ("zero"), with use_missing=false ("none"), and
# as a random forest ("rf"), and of three classes in two rounds ("classes").
_SAVED = Path(__file__).with_name("lightgbm_leaves.json")

# A node for weight, and on its left one for height, which sends what is missing to the left.
TREE = {
    "num_leaves": "3",
    "num_cat": "0",
    "split_feature": "1 0",
    "threshold": "0.5 -0.25",
    "decision_type": "2 10",
    "left_child": "1 -1",
    "right_child": "-2 -3",
    "leaf_value": "0.1 0.2 -0.3",
    "is_linear": "0",
    "shrinkage": "1",
}
ONE_LEAF = {"num_leaves": "1", "num_cat": "0", "split_feature": "", "threshold": "", "leaf_value": "0.1"}


def saved(kind: str) -> tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A text that LightGBM saved, rows with NaN for what is missing, and their leaves in each tree."""
    found = json.loads(_SAVED.read_text("utf-8"))[kind]
    return "\n".join(found["text"]) + "\n", np.array(found["rows"], np.float64), np.array(found["leaves"])


def tree_text(
    trees: Sequence[dict[str, str]] = (TREE,), *, names: str = "height weight", **header: str | None
) -> str:
    """A whole file with these trees; ``header`` are keys in the place of its own, None for one left out."""
    keys: dict[str, str | None] = {
        "version": "v4",
        "num_class": "1",
        "max_feature_idx": str(len(names.split()) - 1),
        "feature_names": names,
    }
    lines = ["tree", *(f"{key}={value}" for key, value in (keys | header).items() if value is not None), ""]
    for number, tree in enumerate(trees):
        lines += [f"Tree={number}", *(f"{key}={value}" for key, value in tree.items()), "", ""]
    return "\n".join([*lines, "end of trees", "", "parameters:", "[boosting: gbdt]", ""])


def write_trees(path: Path, trees: Sequence[dict[str, str]] = (TREE, ONE_LEAF, TREE)) -> Path:
    path.write_text(tree_text(trees), "utf-8")
    return path
