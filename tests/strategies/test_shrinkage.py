"""Shrinking takes as much of the error away as the theory says, and nothing where there is no noise."""

from __future__ import annotations

import numpy as np
import pytest

from privacy.errors import JobError
from protocol.job.strategy import find_strategy, listed_strategies
from strategies.fedsvd import refactor
from strategies.shrinkage import shrink_change, shrink_norm, shrink_singular_values
from tests.server.runs import make_job

STD = 0.7
SHRINKS = {"fedsvd", "ffa", "scaffold", "fedsb", "head"}


def errors(shrunken: object, signal: np.ndarray, *, std: float, times: int) -> float:
    """The mean squared error of ``times`` draws of noise around a signal."""
    rng = np.random.default_rng(0)
    found = [
        shrunken(signal + std * rng.standard_normal(signal.shape), std=std) - signal  # type: ignore[operator]
        for _ in range(times)
    ]
    return float(np.mean([np.sum(off**2) for off in found]))


@pytest.mark.parametrize("length", [0.0, 5.0, 20.0, 200.0])
def test_the_error_of_a_norm_that_is_shrunk_is_that_of_james_and_stein(length: float) -> None:
    size = 400
    signal = np.full(size, length / size**0.5)
    noise = size * STD**2
    found = errors(shrink_norm, signal, std=STD, times=300)
    # With the best factor for this very signal the error is a·n / (a + n), a = |signal|², n = d·σ². Not to
    # know it costs at most 2σ² (Lehmann and Casella 1998, theorem 5.5.7 for d >= 3). Of 300 draws the mean
    # of a sum of d squares is off by √(2 / 300 d), which is 0.4 %: five of them.
    best = length**2 * noise / (length**2 + noise)
    assert best * 0.98 <= found <= (best + 2.0 * STD**2) * 1.02
    assert found < noise


def test_the_error_of_singular_values_that_are_shrunk_is_gavishs_and_donohos() -> None:
    rows, columns, std = 40, 400, 1.0 / 400**0.5
    beta = rows / columns
    rng = np.random.default_rng(1)
    left, _ = np.linalg.qr(rng.standard_normal((rows, 2)))
    right, _ = np.linalg.qr(rng.standard_normal((columns, 2)))
    lengths = np.array([3.0, 1.5])
    signal = (left * lengths) @ right.T
    # Theorem 1: a value x > β^(1/4) comes out as y, with y² = (x + 1/x)(x + β/x), is shrunk to η(y), and
    # leaves an error of x² - η². Noise leaves β·n·σ²·n = m in all where nothing is done.
    squares = (lengths + 1 / lengths) * (lengths + beta / lengths)
    shrunk = ((squares - beta - 1.0) ** 2 - 4.0 * beta) / squares
    expected = float(np.sum(lengths**2 - shrunk))
    found = errors(shrink_singular_values, signal, std=std, times=60)
    # The theory is of matrices without end: at 400 columns, a few over √400.
    assert found == pytest.approx(expected, rel=0.1)
    assert found < 0.1 * errors(lambda noisy, std: noisy, signal, std=std, times=5)


def test_noise_alone_leaves_no_singular_value() -> None:
    noise = np.random.default_rng(2).standard_normal((384, 4))
    assert np.linalg.norm(shrink_singular_values(noise, std=1.0)) < 0.35 * np.linalg.norm(noise)
    # Told of two thirds of it, the edge is too low, and most of it stays.
    assert np.linalg.norm(shrink_singular_values(noise, std=2 / 3)) > 0.5 * np.linalg.norm(noise)


@pytest.mark.parametrize("kind", ["norm", "singular"])
@pytest.mark.parametrize("name", sorted(SHRINKS))
def test_without_noise_nothing_changes(name: str, kind: str) -> None:
    strategy = find_strategy(name)()
    core = {"a.lora_C.weight": (2, 2)} if strategy.cored else {}
    shapes = {"a.lora_A.weight": (2, 5), "a.lora_B.weight": (3, 2), "head.weight": (2, 3), **core}
    layout = strategy.lay_out(shapes)
    rng = np.random.default_rng(3)
    start, adapter = rng.standard_normal((2, layout.adapter_size)).astype(np.float32)
    noise = {slot.name: 0.0 for slot in layout.slots if slot.sent}
    found = shrink_change(adapter, start, layout, noise=noise, kind=kind)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, adapter, atol=1e-6)
    # With noise that explains all of it, what was sent is where it began, and the rest stays.
    loud = dict.fromkeys(noise, 1e3)
    back = layout.split(shrink_change(adapter, start, layout, noise=loud, kind=kind))  # type: ignore[arg-type]
    for slot in layout.slots:
        expected = layout.split(start if slot.sent else adapter)[slot.name]
        np.testing.assert_allclose(back[slot.name], expected, atol=1e-6)


def test_a_turned_basis_shrinks_the_product_as_the_first_one_does() -> None:
    layout = find_strategy("fedsvd")().lay_out({"a.lora_A.weight": (2, 40), "a.lora_B.weight": (30, 2)})
    rng = np.random.default_rng(4)
    rows, _ = np.linalg.qr(rng.standard_normal((40, 2)))
    b = rng.standard_normal((30, 2)) * np.array([1.0, 6.0])
    tensors = {"a.lora_A.weight": rows.T.astype(np.float32), "a.lora_B.weight": b.astype(np.float32)}
    plain, start = layout.join(tensors), layout.join(tensors | {"a.lora_B.weight": np.zeros_like(b)})
    noise = {"a.lora_B.weight": 0.5}
    products = []
    for adapter in (plain, refactor(plain, layout)):
        shrunk = shrink_change(adapter, start, layout, noise=noise, kind="singular")
        found = layout.split(shrunk)
        products.append(found["a.lora_B.weight"] @ found["a.lora_A.weight"])
    assert not np.allclose(products[0], b @ rows.T, atol=0.1)
    np.testing.assert_allclose(products[0], products[1], atol=1e-4)


@pytest.mark.parametrize("name", listed_strategies())
def test_which_strategies_allow_it_is_declared(name: str) -> None:
    changes = {"training": {"shrink": "singular"}, "strategy": {"name": name}}
    if name in SHRINKS:
        make_job(**changes)
        return
    with pytest.raises(JobError, match=r"strategy\.name"):
        make_job(**changes)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"privacy": {"mechanism": "none"}}, r"privacy\.mechanism: .* nothing to shrink by"),
        ({"privacy": {"mechanism": "laplace"}}, r"privacy\.mechanism"),
        ({"adapter": {"init": "pissa"}}, r"adapter\.init: .* turns the basis"),
        ({"training": {"warm_start": "there"}}, r"training\.warm_start: .* turns the basis"),
        ({"training": {"optimizer": "adam", "learning_rate": 0.01}}, r"training\.optimizer"),
        ({"training": {"proximal": 0.1}}, r"training\.proximal"),
        ({"training": {"update_norm": 1.0}}, r"training\.update_norm"),
        (
            {"strategy": {"name": "ffa", "server": {"optimizer": "fedavgm"}}},
            r"strategy\.server: .* by what it remembers",
        ),
        ({"strategy": {"name": "ffa"}, "compression": {"kind": "random"}}, r"compression\.kind"),
    ],
)
def test_what_hides_how_much_noise_there_is_is_refused(
    changes: dict[str, dict[str, object]], key: str
) -> None:
    training = {"shrink": "norm", **changes.get("training", {})}
    with pytest.raises(JobError, match=key):
        make_job(**changes | {"training": training})
