"""LightGBM's text: what is refused of it, and leaves that are LightGBM's own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import ModelError
from tasks.data.tree_file import MOST_TREES, parse_trees, read_trees
from tests.tasks.data.tree_texts import ONE_LEAF, TREE, saved, tree_text


def chain(leaves: int) -> dict[str, str]:
    """A tree that is a list: each node has a leaf on its left, and the next node on its right."""
    nodes = leaves - 1
    right = [*map(str, range(1, nodes)), str(-leaves)]
    return {
        "num_leaves": str(leaves),
        "split_feature": " ".join(["0"] * nodes),
        "threshold": " ".join(map(str, range(nodes))),
        "decision_type": " ".join(["2"] * nodes),
        "left_child": " ".join(str(-1 - node) for node in range(nodes)),
        "right_child": " ".join(right),
    }


def bush(leaves: int) -> dict[str, str]:
    """A tree whose ways are all as long, to within one."""
    nodes = leaves - 1
    children = [str(child if child < nodes else nodes - 1 - child) for child in range(1, 2 * nodes + 1)]
    return chain(leaves) | {"left_child": " ".join(children[::2]), "right_child": " ".join(children[1::2])}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"left_child": "0 -1"}, "left_child and right_child: expected each leaf"),  # a circle
        ({"left_child": "1 1"}, "left_child and right_child"),
        ({"left_child": "-1 -1"}, "left_child and right_child"),
        ({"left_child": "1 -4"}, "left_child and right_child"),
        ({"left_child": "2 -1"}, "left_child and right_child"),
        ({"left_child": "1 -999999999"}, "left_child and right_child"),
        ({"left_child": "1 -99999999999999999999"}, "left_child: expected a whole number"),
        ({"left_child": "1"}, "left_child: expected 2 numbers, one less than leaves, got 1"),
        (
            {"left_child": "1 -1 " * 100_000},
            "left_child: expected 2 numbers, one less than leaves, got more",
        ),
        ({"left_child": "1 x"}, "left_child: expected a whole number, got 'x'"),
        ({"split_feature": "1 2"}, "split_feature: expected 0 to 1"),
        ({"split_feature": "-1 0"}, "split_feature: expected 0 to 1"),
        ({"split_feature": "1 ٣"}, "split_feature: expected a whole number"),
        ({"threshold": "nan 0"}, "threshold: expected finite numbers, got 'nan'"),
        ({"threshold": "1e999 0"}, "threshold: expected finite numbers, got '1e999'"),
        ({"threshold": "1_0 0"}, "threshold: expected finite numbers"),
        ({"threshold": "9" * 100_000 + "x 0"}, "threshold: expected finite numbers"),
        ({"decision_type": "2 12"}, "decision_type: expected"),
        ({"decision_type": "2 -2"}, "decision_type: expected"),
        ({"decision_type": "2 1"}, "expected splits of numbers alone, got one of categories"),
        ({"num_cat": "1"}, "expected splits of numbers alone"),
        ({"is_linear": "1"}, "expected no linear tree"),
        ({"num_leaves": "0"}, "num_leaves: expected 1 to 256, got 0"),
        ({"num_leaves": "999999999"}, "num_leaves: expected 1 to 256"),
        ({"num_leaves": "9" * 5000}, "num_leaves: expected a whole number"),
        ({"num_leaves": "4"}, "decision_type: expected 3 numbers"),
        ({"new_key": "1"}, "'new_key' is no key"),
        ({"feature_names": "a"}, "'feature_names' is no key"),
    ],
)
def test_a_tree_that_is_none_is_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ModelError) as told:
        parse_trees(tree_text([ONE_LEAF, TREE | changes]))
    assert str(told.value).startswith("data.trees: Tree=1: ")
    assert words in str(told.value)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 'whose first line is "tree"'),
        ("\x80\x04", 'whose first line is "tree"'),
        ("tree", "the file ends too early"),
        (tree_text().partition("end of trees")[0], "the file ends too early"),
        (tree_text([]), "trees: expected 1, as many as tree_sizes has, got 0"),
        (tree_text(tree_sizes="x"), "tree_sizes: expected a whole number"),
        (tree_text(num_class="zz"), "num_class: expected a whole number"),
        (tree_text(num_tree_per_iteration="3"), "with whole rounds of trees, got 1 trees"),
        (tree_text([chain(256)] * 40), "expected trees of at most 10000 levels in all"),
        (tree_text(tree_sizes="1 2"), "trees: expected 2, as many as tree_sizes has, got 1"),
        (tree_text(version="v2"), "version: expected v3 or v4, got 'v2'"),
        (tree_text(version=None), "version: expected v3 or v4, got ''"),
        (tree_text(max_feature_idx="2"), "feature_names: expected max_feature_idx + 1 = 3 names"),
        (tree_text(max_feature_idx="x"), "max_feature_idx: expected a whole number"),
        (tree_text(names="height height"), "names, each once"),
        (tree_text(names="", max_feature_idx="-1"), "feature_names: expected"),
        (tree_text(names=" ".join(f"c{n}" for n in range(1001))), "at most 1000"),
        (tree_text(other="1"), "'other' is no key"),
        (tree_text().replace("Tree=0", "Tree=1"), "expected Tree=0"),
        (tree_text().replace("num_cat=0", "num_cat=0\nnum_cat=0"), "Tree=0: num_cat: expected once"),
        (tree_text([ONE_LEAF] * (MOST_TREES + 1)), "expected at most 500 trees"),
        (tree_text([bush(256)] * 79), "expected at most 20000 leaves in all"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(ModelError) as told:
        parse_trees(text)
    assert str(told.value).startswith("data.trees: ")
    assert words in str(told.value)


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to read it would never end
    (tmp_path / "latin").write_bytes("tree\nfeature_names=größe".encode("latin-1"))
    (tmp_path / "large").write_bytes(b"tree\n" + b"\n" * (1 << 24))
    for name, words in {
        "none": "found none at",
        "pipe": "found none at",
        "": "found none at",
        "x" * 4000: "data.trees: ",
        "latin": "expected a text file in UTF-8",
        "large": "expected a file of at most",
    }.items():
        with pytest.raises(ModelError, match=r"^data\.trees: ") as told:
            read_trees(str(tmp_path / name))
        assert words in str(told.value)
    for source in (
        "package:no_such_package/model.txt",
        "package:",
        "package:no.such/x",
        "package:" + "a." * 300,
    ):
        with pytest.raises(ModelError, match=r"^data\.trees: .* cannot be read: "):
            read_trees(source)


_TEXT = tree_text([TREE, ONE_LEAF])


@settings(max_examples=300, deadline=None)
@given(
    start=st.integers(0, len(_TEXT)),
    length=st.integers(0, 8),
    put=st.text(alphabet="0123456789-. =\nexT_\u0663\x00", max_size=6),
)
def test_whatever_is_in_a_file_it_is_trees_or_a_sentence(start: int, length: int, put: str) -> None:
    try:
        trees = parse_trees(_TEXT[:start] + put + _TEXT[start + length :])
    except ModelError:
        return
    rows = np.random.default_rng(0).standard_normal((5, len(trees.names)))
    leaves = trees.leaves_of(rows)
    assert ((leaves >= 0) & (leaves < np.array(trees.sizes))).all()


@pytest.mark.parametrize("kind", ["nan", "zero", "none", "rf", "classes"])
def test_leaves_are_those_that_lightgbm_finds(kind: str) -> None:
    text, rows, leaves = saved(kind)
    trees = parse_trees(text)
    assert trees.names == ("height", "weight", "age")
    assert np.isnan(rows).any()
    np.testing.assert_array_equal(trees.leaves_of(rows), leaves)
    for row, expected in zip(rows, leaves, strict=True):  # each by itself
        np.testing.assert_array_equal(trees.leaves_of(row[None]), expected[None])


def test_a_small_tree_is_followed_by_hand() -> None:
    trees = parse_trees(tree_text([TREE, ONE_LEAF, chain(256)]))
    nan = np.nan
    rows = np.array([[0, 1], [0, 0.5], [-0.25, 0], [nan, 0], [nan, nan], [300, 9]], float)
    assert trees.leaves_of(rows).tolist() == [
        [1, 0, 0],
        [2, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],  # of weight nothing is ever missing: it counts as zero
        [1, 0, 255],
    ]
    assert trees.leaves_of(np.zeros((0, 2))).shape == (0, 3)


def test_every_row_takes_as_many_steps_as_the_longest_way() -> None:
    (tree,) = parse_trees(tree_text([chain(200)])).trees
    assert tree.depth == 199
    assert [parse_trees(tree_text([one])).trees[0].depth for one in (TREE, ONE_LEAF)] == [2, 0]

    class Counted(np.ndarray[tuple[int, ...], np.dtype[np.float64]]):
        """Numbers that count how often they are looked up."""

        looks: int = 0

        def __getitem__(self, key: object) -> object:
            Counted.looks += 1
            return np.asarray(self)[key]  # type: ignore[index]

    taken = []
    for height in (-1.0, 1000.0):
        Counted.looks = 0
        values = np.array([[-1.0, 0.0], [height, 0.0]]).view(Counted)
        assert tree.leaf_of(values)[1] == (0 if height < 0 else 199)
        taken.append(Counted.looks)
    assert taken == [199, 199]


def test_the_digest_is_of_what_decides_a_leaf() -> None:
    digest = parse_trees(tree_text()).digest
    same = [
        tree_text().replace("\n", "\r\n"),
        tree_text([TREE | {"threshold": "5e-1 -0.25"}]),
        tree_text([TREE | {"leaf_value": "1 2 3"}]),  # read by nobody
        tree_text(version="v3"),
    ]
    others = [
        tree_text([TREE | {"threshold": "0.5 -0.250000001"}]),
        tree_text([TREE | {"decision_type": "2 8"}]),
        tree_text([TREE | {"decision_type": "2 6"}]),
        tree_text([TREE | {"split_feature": "0 1"}]),
        tree_text([TREE | {"left_child": "1 -3", "right_child": "-2 -1"}]),
        tree_text([TREE, ONE_LEAF]),
        tree_text(names="weight height"),
    ]
    assert {parse_trees(text).digest for text in same} == {digest}
    assert len({digest, *(parse_trees(text).digest for text in others)}) == len(others) + 1
