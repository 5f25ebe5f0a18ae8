"""LightGBM's text form of boosted trees, read strictly: no code, no pickle, and no LightGBM.

Source: LightGBM's ``src/boosting/gbdt_model_text.cpp`` and ``src/io/tree.cpp``, of the versions v3 and v4.
A file is somebody else's: whatever is in it, it is read in a time that its length bounds, or a ModelError
says what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ModelError
from protocol.plain_text import first_line, quoted
from tasks.data.boosted_trees import BoostedTrees, Missing, Tree
from tasks.data.package_path import locate

MOST_TREES, MOST_LEAVES_A_TREE, MOST_LEAVES = 500, 256, 20_000
MOST_LEVELS = 10_000  # a row takes as many steps
_MOST_NAMES = 1000
_MOST_BYTES = 1 << 24

_VERSIONS = ("v3", "v4")
_END = "end of trees"
_HEADER = frozenset(
    {
        "tree",
        "version",
        "num_class",
        "num_tree_per_iteration",
        "label_index",
        "max_feature_idx",
        "objective",
        "average_output",
        "feature_names",
        "monotone_constraints",
        "feature_infos",
        "tree_sizes",
    }
)
_TREE = frozenset(
    {
        "num_leaves",
        "num_cat",
        "split_feature",
        "split_gain",
        "threshold",
        "decision_type",
        "left_child",
        "right_child",
        "leaf_value",
        "leaf_weight",
        "leaf_count",
        "internal_value",
        "internal_weight",
        "internal_count",
        "is_linear",
        "shrinkage",
        "cat_boundaries",
        "cat_threshold",
        "leaf_const",
        "num_features",
        "leaf_features",
        "leaf_coeff",
    }
)
_WHOLE = re.compile(r"-?[0-9]{1,9}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?[0-9]{1,25}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,4})?", re.ASCII)
# Bits of a decision_type; what is missing has the two above them.
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_AT = 1, 2, 2

_Keys = Mapping[str, str]


def read_trees(source: str) -> BoostedTrees:
    """The trees in a file of LightGBM's, or in ``package:NAME/PATH``.

    Raises ModelError, naming ``data.trees``, for all else.
    """
    return trees_in(read_tree_file(source))


def read_tree_file(source: str) -> bytes:
    """What such a file has, before anything of it is understood. Raises ModelError as ``read_trees``."""
    try:
        path = Path(locate(source))
        content = None
        if path.is_file():  # and no pipe, which may never end
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
    except (ModelError, OSError, ValueError, ImportError) as error:
        raise _fault(f"{quoted(source)} cannot be read: {first_line(error)}") from error
    if content is None:
        raise _fault(f"expected a text file that LightGBM saved, found none at {quoted(source)}")
    if len(content) > _MOST_BYTES:
        raise _fault(f"expected a file of at most {_MOST_BYTES} bytes")
    return content


def trees_in(content: bytes) -> BoostedTrees:
    """The trees that a file's content has. Raises ModelError as ``read_trees``."""
    try:
        return parse_trees(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _fault("expected a text file in UTF-8, as LightGBM's save_model writes it") from error


def parse_trees(text: str) -> BoostedTrees:
    """The trees that a text has. Raises ModelError for one that is not as LightGBM writes it."""
    header, *blocks = _split(text)
    if header.get("version") not in _VERSIONS:
        raise _fault(f"version: expected v3 or v4, got {quoted(header.get('version', ''))}")
    names = tuple(header.get("feature_names", "").split(" ", _MOST_NAMES))
    last = _whole(header.get("max_feature_idx", ""), "max_feature_idx")
    if len(names) != last + 1 or len(set(names)) != len(names) or not 1 <= len(names) <= _MOST_NAMES:
        raise _fault(
            f"feature_names: expected max_feature_idx + 1 = {last + 1} names, each once, and at most "
            f"{_MOST_NAMES}, got {len(names)}"
        )
    sizes = header.get("tree_sizes")
    declared = len(blocks) if sizes is None else len(sizes.split(maxsplit=MOST_TREES))
    if not blocks or declared != len(blocks):
        raise _fault(f"trees: expected {max(declared, 1)}, as many as tree_sizes has, got {len(blocks)}")
    for size in sizes.split() if sizes else ():
        _whole(size, "tree_sizes")
    together = _whole(header.get("num_tree_per_iteration", "1"), "num_tree_per_iteration")
    if together < 1 or len(blocks) % together or _whole(header.get("num_class", "1"), "num_class") < 1:
        raise _fault(
            f"num_tree_per_iteration and num_class: expected 1 or more, with whole rounds of trees, got "
            f"{len(blocks)} trees"
        )
    trees: list[Tree] = []
    leaves = levels = 0
    for number, keys in enumerate(blocks):
        trees.append(_tree(keys, f"Tree={number}", len(names)))
        leaves += trees[-1].leaves
        if leaves > MOST_LEAVES:
            raise _fault(f"expected at most {MOST_LEAVES} leaves in all")
        levels += trees[-1].depth
        if levels > MOST_LEVELS:
            raise _fault(f"expected trees of at most {MOST_LEVELS} levels in all")
    return BoostedTrees(names=names, trees=tuple(trees))


def _split(text: str) -> list[dict[str, str]]:
    """The header's keys, and each tree's, as text. What comes after the trees decides nothing."""
    if text.partition("\n")[0].removesuffix("\r") != "tree":
        raise _fault('expected a text file that LightGBM saved, whose first line is "tree"')
    blocks: list[dict[str, str]] = [{}]
    for ended in StringIO(text):  # one by one: all lines at once may take many times the room
        line = ended.removesuffix("\n").removesuffix("\r")
        if line == _END:
            return blocks
        if not line:
            continue
        key, _, value = line.partition("=")
        where = f"Tree={len(blocks) - 2}: " if len(blocks) > 1 else ""
        if key == "Tree":
            if value != str(len(blocks) - 1):
                raise _fault(f"expected Tree={len(blocks) - 1}, got {quoted(line)}")
            if len(blocks) > MOST_TREES:
                raise _fault(f"expected at most {MOST_TREES} trees")
            blocks.append({})
        else:
            if key not in (_TREE if where else _HEADER):
                raise _fault(f"{where}{quoted(key)} is no key that LightGBM's v3 or v4 has there")
            if key in blocks[-1]:
                raise _fault(f"{where}{key}: expected once")
            blocks[-1][key] = value
    raise _fault(f'expected the line "{_END}": the file ends too early')


def _tree(keys: _Keys, where: str, names: int) -> Tree:
    leaves = _whole(keys.get("num_leaves", ""), f"{where}: num_leaves")
    if not 1 <= leaves <= MOST_LEAVES_A_TREE:
        raise _fault(f"{where}: num_leaves: expected 1 to {MOST_LEAVES_A_TREE}, got {leaves}")
    if keys.get("is_linear", "0") != "0":
        raise _fault(f"{where}: expected no linear tree (linear_tree), whose leaves are no whole answer")
    nodes = leaves - 1
    decisions = _wholes(keys, "decision_type", nodes, where)
    if keys.get("num_cat", "0") != "0" or (decisions & _CATEGORICAL).any():
        raise _fault(
            f"{where}: expected splits of numbers alone, got one of categories: train without "
            "categorical_feature"
        )
    missing = decisions >> _MISSING_AT
    if ((decisions < 0) | (missing > max(Missing))).any():
        raise _fault(f"{where}: decision_type: expected {_DEFAULT_LEFT} with what is missing, 0 to 10")
    features = _wholes(keys, "split_feature", nodes, where)
    if ((features < 0) | (features >= names)).any():
        raise _fault(f"{where}: split_feature: expected 0 to {names - 1}, which feature_names has")
    left, right = (_wholes(keys, key, nodes, where) for key in ("left_child", "right_child"))
    _check_shape(np.stack([left, right]), leaves, where)
    return Tree(
        features=features,
        thresholds=_decimals(keys, "threshold", nodes, where),
        missing=missing,
        missing_left=(decisions & _DEFAULT_LEFT) > 0,
        left=left,
        right=right,
    )


def _check_shape(children: NDArray[np.int64], leaves: int, where: str) -> None:
    """Raises ModelError for children, int64[2, nodes], that make no tree whose root is the first node."""
    nodes = leaves - 1
    # LightGBM numbers a node when it splits: so children come later, and nothing goes round in a circle.
    forward = (children > np.arange(nodes)) | (children < 0)
    each_once = sorted(children.ravel().tolist()) == [*range(-leaves, 0), *range(1, nodes)]
    if nodes and not (forward.all() and each_once):
        raise _fault(
            f"{where}: left_child and right_child: expected each leaf and each node but the first once, "
            "and nodes after their parents"
        )


def _wholes(keys: _Keys, key: str, count: int, where: str) -> NDArray[np.int64]:
    parts = _parts(keys, key, count, where)
    return np.array([_whole(part, f"{where}: {key}") for part in parts], np.int64)


def _decimals(keys: _Keys, key: str, count: int, where: str) -> NDArray[np.float64]:
    found = []
    for part in _parts(keys, key, count, where):
        value = float(part) if _DECIMAL.fullmatch(part) else math.inf
        if not math.isfinite(value):
            raise _fault(f"{where}: {key}: expected finite numbers, got {quoted(part)}")
        found.append(value)
    return np.array(found, np.float64)


def _parts(keys: _Keys, key: str, count: int, where: str) -> Sequence[str]:
    parts = keys.get(key, "").split(maxsplit=count + 1)
    if len(parts) != count:
        got = len(parts) if len(parts) <= count else "more"
        raise _fault(f"{where}: {key}: expected {count} numbers, one less than leaves, got {got}")
    return parts


def _whole(text: str, where: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise _fault(f"{where}: expected a whole number, got {quoted(text)}")
    return int(text)


def _fault(why: str) -> ModelError:
    return ModelError(f"data.trees: {why}")
