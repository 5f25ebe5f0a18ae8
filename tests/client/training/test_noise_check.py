"""The check draws steps for nobody, and refuses noise that is missing, repeated, or of another width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from client.training.noise_check import check_noise
from privacy.errors import PrivacyUnitError
from privacy.mechanisms.clipping import ClippedSum
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source, keyed_source
from tests.models import CASES, Case

GAUSSIAN = Mechanism(name="gaussian", multiplier=1.0)
LAPLACE = Mechanism(name="laplace", multiplier=1.0)
whole_noise, whole_release = Mechanism.noise, Mechanism.release

Tensors = Sequence[torch.Tensor]


def adds(change: Callable[[Tensors], Tensors]) -> Callable[..., Tensors]:
    return lambda *given: change(whole_release(*given))


def times(factor: float) -> Callable[..., Tensors]:
    return adds(lambda released: [factor * tensor for tensor in released])


def none_on_the_last(released: Tensors) -> Tensors:
    return [*released[:-1], torch.zeros_like(released[-1])]


def none_on_three(released: Tensors) -> Tensors:
    found = [tensor.clone() for tensor in released]
    found[0].view(-1)[:3] = 0.0
    return found


def nan_on_one(released: Tensors) -> Tensors:
    found = [tensor.clone() for tensor in released]
    found[0].view(-1)[0] = float("nan")
    return found


def by_one_key(mechanism: Mechanism, clipped: ClippedSum, source: ChaCha20Source) -> Tensors:
    """The same key for each tensor, and another in each step."""
    key, steps = source.seed(), clipped.steps
    return clipped.plus(
        [mechanism.noise(size, steps=steps, source=keyed_source(key)) for size in clipped.sizes]
    )


def in_each_step(mechanism: Mechanism, clipped: ClippedSum, _source: ChaCha20Source) -> Tensors:
    """One key for all steps."""
    return whole_release(mechanism, clipped, keyed_source(3))


@pytest.fixture(autouse=True)
def _keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise each time: which tensor is refused first, and how wide its noise seems, is chance."""
    monkeypatch.setattr("client.training.noise_check.fresh_source", lambda: keyed_source(5))


FAULTS: dict[str, tuple[Callable[..., Tensors], str]] = {
    "none": (times(0.0), "are released without noise"),
    "none on the last tensor": (adds(none_on_the_last), r"v_proj.* are released without noise"),
    "none on three numbers": (adds(none_on_three), r"3 of \d+ numbers are released without noise"),
    "a quarter": (times(0.25), r"is 0\.\d+ times as wide as planned"),
    "two thirds": (times(2 / 3), r"is 0\.\d+ times as wide as planned"),
    "twice": (times(2**0.5), r"is [12]\.\d+ times as wide as planned"),
    "not a number": (adds(nan_on_one), "is nan times as wide as planned"),
    "one key for all tensors": (by_one_key, "in step 1: the noise is that of .* in step 1"),
    "one key for all steps": (in_each_step, "in step 2: the noise is that of .* in step 1"),
}


@pytest.mark.parametrize("mechanism", [GAUSSIAN, LAPLACE], ids=["gaussian", "laplace"])
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_noise_is_refused(fault: str, mechanism: Mechanism, monkeypatch: pytest.MonkeyPatch) -> None:
    release, said = FAULTS[fault]
    adapted = CASES["llama-all-linear"].adapted()
    monkeypatch.setattr(Mechanism, "release", release)
    with pytest.raises(PrivacyUnitError, match=said):
        check_noise(adapted, mechanism)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_right_noise_passes(case: Case) -> None:
    adapted = case.adapted()
    for mechanism in (GAUSSIAN, LAPLACE):
        check_noise(adapted, mechanism)
    for parameter in adapted.trained.values():
        assert parameter.grad is None


def test_tensors_of_few_numbers_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias of one number may be zero: it says nothing."""
    adapted = CASES["bert-qv-head"].adapted(adapter={"bias": "lora_only"})
    check_noise(adapted, GAUSSIAN)


def test_the_adapter_stays_as_it_is() -> None:
    adapted: Any = CASES["llama-qv"].adapted()
    before = adapted.now()
    check_noise(adapted, GAUSSIAN)
    assert (adapted.now() == before).all()
