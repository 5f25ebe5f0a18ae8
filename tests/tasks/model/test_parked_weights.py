"""Frozen layers whose weights wait: no operation reads one that waits, few copies are there at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tasks.model.parked_weights
from client.training.gradient_check import choose_gradients
from client.training.gradients import OneByOne, losses
from client.training.stacked_gradients import StackedGradients
from client.training.unit_check import check_privacy_unit
from privacy.errors import JobError, ModelError
from protocol.job.adapter_section import no_adapter
from protocol.job.job import Job
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.model.model_layers import layer_lists
from tasks.model.parked_weights import ParkedWeights
from tasks.model.quantization import quantize
from tasks.registry import section_of
from tests.models import (
    adapt,
    bert,
    gpt2,
    llama,
    make_examples,
    make_job,
    mixtral,
    random_adapter,
    text_base,
)

SIZES = (5, 9, 3, 7)
TARGETS = {llama: ["q_proj", "v_proj"], gpt2: ["c_attn"], bert: ["query", "value"]}
LAYERS = 3


class WaitingWeightError(Exception):
    """What a GPU would say of an operation on a weight in main memory."""


class Machine(TorchDispatchMode):
    """Two devices in one: copies are on one of them, and the weights of layers wait on the other.

    ``most`` is the largest number of layers that had copies at once when anything was computed.
    """

    def __init__(self, adapted: AdaptedModel, bring: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self._bring, self._copies = bring, list[tuple[StorageWeakRef, int]]()
        trained = set(map(id, adapted._parameters.values()))
        (found,) = layer_lists(adapted.peft.get_base_model())
        self._held = [  # or others would get their places in memory
            (number, weight)
            for number, layer in enumerate(found.layers)
            for weight in layer.parameters()
            if id(weight) not in trained
        ]
        self.waiting = {weight.untyped_storage().data_ptr(): number for number, weight in self._held}
        self.brought = self.most = self._moving = 0

    def bring(self, weight: torch.Tensor, device: torch.device) -> torch.Tensor:
        """A copy, which is counted as long as anyone holds its memory."""
        layer = self.waiting[weight.untyped_storage().data_ptr()]
        self._moving += 1
        copy = self._bring(weight, device).clone()
        self._moving -= 1
        self.brought += 1
        self._copies.append((StorageWeakRef(copy.untyped_storage()), layer))
        return copy

    @property
    def resident(self) -> int:
        """The layers of which a copy is there."""
        self._copies = [(held, layer) for held, layer in self._copies if not held.expired()]
        return len({layer for _, layer in self._copies})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._moving and func is not torch.ops.aten.detach.default:
            for leaf in tree_leaves((args, kwargs)):
                waits = isinstance(leaf, torch.Tensor) and (
                    leaf.untyped_storage().data_ptr() in self.waiting
                )
                if waits:
                    raise WaitingWeightError(str(func))
            self.most = max(self.most, self.resident)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(adapted, tasks.model.parked_weights.bring)
    with monkeypatch.context() as patch, machine:
        patch.setattr(tasks.model.parked_weights, "bring", machine.bring)
        yield machine


def model(
    build: Any = llama, *, offload: bool = True, bfloat16: bool = False, task: str = "", **sections: Any
) -> AdaptedModel:
    task = task or ("sequence-classification" if build is bert else "causal-lm")
    job = make_job(targets=TARGETS[build], task=task, **sections)
    return adapt(build(layers=LAYERS), job, offload=offload, bfloat16=bfloat16)


def found_by(adapted: AdaptedModel, *, kept: bool = False) -> dict[str, torch.Tensor]:
    adapted.load(random_adapter(adapted))
    adapted.peft.train()
    torch.manual_seed(1)
    examples = make_examples(SIZES, labelled=adapted.spec.task == "sequence-classification")
    activations = None
    if kept:
        activations = Activations(FrozenPrefix(adapted), examples)
        assert activations.work
        activations.fill(np.arange(4))
    batch = examples.batch(np.arange(4))
    found: Any = StackedGradients(adapted).backward(batch, losses(adapted, activations))
    return {name: one if isinstance(one, torch.Tensor) else one.whole() for name, one in found.items()}


@pytest.mark.parametrize(
    ("build", "bfloat16"), [(llama, False), (llama, True), (gpt2, False), (bert, False)]
)
def test_gradients_are_the_same_bits_and_one_layer_is_there_at_a_time(
    build: Any, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"adapter": {"dropout": 0.3}, "privacy": {"mechanism": "none"}}
    changes["bfloat16"] = bfloat16
    expected, adapted = found_by(model(build, offload=False, **changes)), model(build, **changes)
    with watched(adapted, monkeypatch) as machine:
        found = found_by(adapted)
        assert machine.resident == 0
    for name, gradients in expected.items():
        assert torch.equal(found[name], gradients), name
    assert machine.most == 1
    assert machine.brought == 2 * len(machine.waiting)  # on both ways


def test_copies_that_autograd_keeps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake: weights that are brought for a layer which is not computed again."""

    def once(forward: Any, *args: Any, use_reentrant: bool, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    monkeypatch.setattr("tasks.model.recomputed_layers.checkpoint", once)
    adapted = model()
    with watched(adapted, monkeypatch) as machine:
        found_by(adapted)
    assert machine.most == LAYERS


def test_a_pass_that_is_broken_off_leaves_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake of hooks before and after a layer: a second pass ends before its last line."""

    @contextmanager
    def careless(weights: ParkedWeights) -> Iterator[None]:
        slots = [(module._parameters, name, module._parameters[name]) for module, name in weights._slots]
        for table, name, weight in slots:
            table[name] = tasks.model.parked_weights.bring(weight, torch.device("cpu"))
        yield
        for table, name, weight in slots:
            table[name] = weight

    adapted = model()
    monkeypatch.setattr(ParkedWeights, "brought", careless)
    with watched(adapted, monkeypatch) as machine:
        found_by(adapted)
        assert machine.resident == LAYERS


def test_a_weight_that_is_used_where_it_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = model()
    monkeypatch.setattr(ParkedWeights, "brought", lambda _self: nullcontext())
    with watched(adapted, monkeypatch), pytest.raises(WaitingWeightError):
        found_by(adapted)


def test_layers_whose_activations_are_kept_are_brought_once(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"adapter": {"layers_to_transform": [1, 2]}}
    expected = found_by(model(offload=False, **changes), kept=True)
    adapted = model(**changes)
    with watched(adapted, monkeypatch) as machine:
        found = found_by(adapted, kept=True)
    for name, gradients in expected.items():
        assert torch.equal(found[name], gradients), name
    assert machine.most == 1


@pytest.mark.parametrize(
    "changes",
    [{"strategy": {"name": "fedex"}, "aggregation": {"kind": "none"}}, {"adapter": {"init": "olora"}}],
)
def test_weights_that_a_rule_moves_or_a_start_is_taken_from_wait_as_well(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, adapted = found_by(model(offload=False, **changes)), model(**changes)
    adapted.load(random_adapter(adapted))  # which moves weights where they wait
    with watched(adapted, monkeypatch) as machine:
        found = found_by(adapted)
    assert machine.most == 1
    for name, gradients in expected.items():
        assert torch.equal(found[name], gradients), name


def test_pairs_and_the_whole_unit_check_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = model(task="preferences")
    method = choose_gradients(adapted)
    assert isinstance(method, StackedGradients)
    with watched(adapted, monkeypatch) as machine:
        check_privacy_unit(method, adapted.probe())
    assert machine.most == 1


def test_where_hooks_would_be_needed_examples_are_computed_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    method = choose_gradients(model(gpt2, adapter={"bias": "lora_only"}))
    assert isinstance(method, OneByOne)
    assert "device.offload: expected false with adapters that need hooks" in caplog.text


def test_what_cannot_wait_is_refused() -> None:
    with pytest.raises(ModelError, match=r"device\.offload: expected false with .* routed experts"):
        adapt(mixtral(), make_job(targets=["experts"]), offload=True)
    with pytest.raises(JobError, match=r'device\.offload: expected false with model\.source="drawn"'):
        section_of(drawn_job(offload=True))


def drawn_job(*, offload: bool) -> Job:
    """Of a network that is drawn, and trained whole."""
    table = {"source": "none", "label": "label", "labels": ["a", "b"], "numbers": {"x": [0.0, 1.0]}}
    drawn, device = {"source": "drawn"}, {"offload": offload}
    job = make_job(targets=[], task="tabular", model=drawn, data=table, device=device)
    return job.model_copy(update={"adapter": no_adapter()})


def test_at_a_site_that_offloads_a_network_that_is_trained_whole_stays_where_it_is() -> None:
    device = Device(torch=torch.device("cpu"), bfloat16=False, offload=True)
    job = drawn_job(offload=False)
    base = load_base_model(job, labels=("a", "b"), device=device)
    assert AdaptedModel(base, job=job, device=device).recomputed_for is None


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_packed_weights_wait_as_well(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a packed layer unpacks on the way back is what its pass was given, and not what waits."""

    def packed(*, offload: bool) -> AdaptedModel:
        job = make_job(targets=TARGETS[llama], model={"source": "none", "quantization": kind})
        built = llama(layers=LAYERS).requires_grad_(False)
        quantize(job, built, keep=())
        device = Device(torch=torch.device("cpu"), bfloat16=False, offload=offload)
        return AdaptedModel(text_base(built, job), job=job, device=device)

    expected, adapted = found_by(packed(offload=False)), packed(offload=True)
    with watched(adapted, monkeypatch) as machine:
        found = found_by(adapted)
    assert any(weight.dtype in (torch.uint8, torch.int8) for _, weight in machine._held)
    assert machine.most == 1
    for name, gradients in expected.items():
        assert torch.equal(found[name], gradients), name
