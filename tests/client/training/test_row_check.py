"""An example's gradient is its own to the last bit, so no adapter can turn rounding into influence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from client.training.gradients import HookedGradients, losses
from client.training.row_check import heights_apart
from client.training.stacked_gradients import RowWeights, StackedGradients
from client.training.step import take_step
from client.training.sum_check import silent_optimizer
from client.training.training import Trainer
from privacy.mechanisms.mechanism import Mechanism
from protocol.job.job import TrainingSection
from tasks.data.examples import Batch, Examples
from tasks.data.shapes import Shapes, ladder
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import CASES, adapt, bert, make_examples, make_job, qwen2_moe, random_adapter

TRAINING = TrainingSection(batch_size=64, physical_batch_size=8)
BERT = CASES["bert-qv-head"]
LENGTHS = tuple(3 + index % 8 for index in range(13))
EXAMPLES = make_examples(LENGTHS, labelled=True)
Grouping = Callable[[Examples, NDArray[np.int64]], Iterable[Batch]]

Kind = type[HookedGradients] | type[StackedGradients]
KINDS = pytest.mark.parametrize("kind", [StackedGradients, HookedGradients])


def clipped_sum(
    trainer: Trainer,
    examples: Examples,
    indices: list[int],
    grouping: Grouping,
) -> torch.Tensor:
    """The sum of a step, by the trainer's own optimizer, in clipping norms."""
    optimizer = silent_optimizer(
        trainer.adapted, Mechanism(name="gaussian", multiplier=1.0), clipping_norm=1.0
    )
    batches = list(grouping(examples, np.array(indices)))
    take_step(optimizer, trainer.gradients, batches, losses(trainer.adapted))
    size = TrainingSection().batch_size
    parts = [p.grad.flatten() * size for p in trainer.adapted.trained.values()]
    optimizer.zero_grad(set_to_none=True)
    return torch.cat(parts)


def mean_hidden(trainer: Trainer, examples: Examples) -> NDArray[np.float64]:
    """What the head sees of each example."""
    held: list[torch.Tensor] = []
    (head,) = [m for name, m in trainer.adapted.peft.named_modules() if name.endswith("classifier")]
    handle = head.register_forward_pre_hook(lambda _module, args: held.append(args[0].detach()))
    rows = []
    for index in range(len(examples)):
        batch = examples.batch(np.array([index]))
        with torch.no_grad():
            trainer.adapted.forward(batch)
        rows.append(held.pop()[0][: int(batch.inputs["attention_mask"].sum())].double().mean(0).numpy())
    handle.remove()
    return np.stack(rows)


def crafted_adapters(trainer: Trainer, examples: Examples) -> Iterable[NDArray[np.float32]]:
    """Heads that see next to nothing of the examples but rounding, and make much of that."""
    adapted = trainer.adapted
    start = random_adapter(adapted)
    adapted.load(start)
    blind = np.linalg.svd(mean_hidden(trainer, examples))[2][len(examples) :]
    generator = np.random.default_rng(0)
    for size in (1e7, 1e8, 1e9, 1e10):
        for _ in range(6):
            direction = size * (generator.standard_normal(len(blind)) @ blind)
            tensors = {name: tensor.copy() for name, tensor in adapted.layout.split(start).items()}
            for name, tensor in tensors.items():
                if "classifier" in name:
                    tensor[:] = 0.0
                    if tensor.ndim == 2:
                        tensor[0], tensor[1] = direction, -direction
            yield adapted.layout.join(tensors)


def influences(trainer: Trainer, examples: Examples, grouping: Grouping) -> Iterator[float]:
    """How far leaving one example out moves the sum, under each of the crafted adapters."""
    everyone = list(range(len(examples)))
    for adapter in crafted_adapters(trainer, examples):
        trainer.adapted.load(adapter)
        whole = clipped_sum(trainer, examples, everyone, grouping)
        for left_out in everyone[:3]:
            rest = [index for index in everyone if index != left_out]
            yield float((whole - clipped_sum(trainer, examples, rest, grouping)).norm())


def case(
    *,
    longest: int = 16,
    bfloat16: bool = False,
    build: Any = None,
    kind: Kind = HookedGradients,
) -> Trainer:
    data = {"source": "none", "label": "label", "labels": ["a", "b", "c"], "max_length": longest}
    job = make_job(targets=BERT.targets, task=BERT.task, pooling="mean", data=data)
    trainer = Trainer(kind(adapt((build or bert)(pooling="mean"), job, bfloat16=bfloat16)))
    trainer.adapted.peft.train()
    return trainer


# Under crafted adapters.


def by_length(examples: Examples, indices: NDArray[np.int64]) -> Iterable[Batch]:
    """Similar lengths together, as wide as the longest among them: the others set an example's shape."""
    return examples.batches(indices, rows=2)


def test_regrouping_gives_a_crafted_adapter_more_than_a_clipping_norm() -> None:
    trainer = case()
    assert any(moved > 1.2 for moved in influences(trainer, EXAMPLES, by_length))


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("physical_batch_size", [8, 1])
@KINDS
def test_no_crafted_adapter_gets_more_from_training(
    physical_batch_size: int, bfloat16: bool, kind: Kind
) -> None:
    trainer = case(bfloat16=bfloat16, kind=kind)
    training = TRAINING.model_copy(update={"physical_batch_size": physical_batch_size})
    shapes = trainer.shapes(training, None)
    assert all(heights[-1] == physical_batch_size for heights in shapes.heights.values())
    assert max(influences(trainer, EXAMPLES, shapes.batches)) <= 1 + 1e-3


# What is kept.


def test_kept_activations_do_not_depend_on_who_else_was_drawn() -> None:
    adapted = CASES["bert-qv-mean"].adapted(layers=3, adapter={"layers_to_transform": [2]})
    prefix = FrozenPrefix(adapted)
    shapes = Shapes.of(ladder(16), batch_size=64, physical_batch_size=4)

    def hidden(*parts: list[int]) -> torch.Tensor:
        kept = Activations(prefix, EXAMPLES)
        for part in parts:
            kept.fill(np.array(part), shapes)
        return kept.fetch(EXAMPLES.batch(np.arange(len(EXAMPLES))), rows=len(EXAMPLES))

    everyone = list(range(len(EXAMPLES)))
    expected = hidden(everyone)
    assert torch.equal(hidden(everyone[::-1]), expected)
    assert torch.equal(hidden(everyone[3:], everyone[:3]), expected)
    assert torch.equal(hidden(*([index] for index in everyone)), expected)


# The check.


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", ["bert-qv-head", "bert-qv-mean", "llama-qv", "gpt2-c_attn"])
@pytest.mark.parametrize("width", [8, 16])
@KINDS
@pytest.mark.exhaustive(but=6)
def test_passes_models_on_this_machine(name: str, bfloat16: bool, width: int, kind: Kind) -> None:
    method = kind(CASES[name].adapted(bfloat16=bfloat16))
    found = heights_apart(method, size=width, heights=(4, 5, 8), activations=None)
    assert found[-1:] == (8,)  # which lower ones are the same is this machine's affair


def test_passes_kept_activations() -> None:
    adapted = CASES["bert-qv-mean"].adapted(layers=3, adapter={"layers_to_transform": [2]})
    activations = Activations(FrozenPrefix(adapted), EXAMPLES)
    assert activations.work
    found = heights_apart(HookedGradients(adapted), size=8, heights=(5,), activations=activations)
    assert found == (5,)


class ByPlace(nn.Module):
    """Adds next to nothing to one row of a batch."""

    def __init__(self, inner: nn.Module, row: int) -> None:
        super().__init__()
        self.inner, self.row = inner, row

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        moved = output.clone()
        if len(output) > self.row:
            moved[self.row] *= 1 + 2.0**-20
        return moved


class ByNeighbours(nn.Module):
    """Adds next to nothing to all rows, depending on what is in all of them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        return output * (1 + 2.0**-14 * torch.tanh(output.detach().mean()))


class ByHeight(nn.Module):
    """Adds next to nothing to all rows of batches of some heights."""

    def __init__(self, inner: nn.Module, heights: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.heights = inner, heights

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        return output * (1 + 2.0**-14 * (len(output) in self.heights))


class FirstOfEight(ByPlace):
    """Adds next to nothing to the first row of batches of eight."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner, 0)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        return super().forward(*args, **kwargs) if len(output) == 8 else output


class BlanksOfEight(nn.Module):
    """Adds next to nothing to all rows of batches of eight with more than one blank row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output = self.inner(hidden)
        blanks = int((hidden == hidden[-1:]).flatten(1).all(1).sum())  # they are all the same
        return output * (1 + 2.0**-14 * (len(output) == 8 and blanks > 1))


def disturbed(wrap: Callable[[nn.Module], nn.Module]) -> Trainer:
    def build(**kind: Any) -> nn.Module:
        model = bert(**kind)
        layer = model.bert.encoder.layer[0]
        layer.output.dense = wrap(layer.output.dense)
        return model

    return case(build=build)


@pytest.mark.parametrize(
    "wrap", [lambda m: ByPlace(m, 0), lambda m: ByPlace(m, 2), ByNeighbours], ids=["first", "third", "mean"]
)
def test_examples_are_alone_where_rounding_depends_on_the_batch(
    wrap: Callable[[nn.Module], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = disturbed(wrap)
    shapes = trainer.shapes(TRAINING, None)
    assert shapes.heights == {8: (1,), 16: (1,)}
    assert {len(batch) for batch in shapes.batches(EXAMPLES, np.arange(len(EXAMPLES)))} == {1}
    assert "alone" in caplog.text


def test_heights_that_tell_apart_are_left_out() -> None:
    def heights(*disturbing: int) -> tuple[int, ...]:
        trainer = disturbed(lambda module: ByHeight(module, disturbing))
        return heights_apart(trainer.gradients, size=8, heights=(4, 8, 12, 16), activations=None)

    same = heights()  # on this machine
    for lower in (4, 8, 12):
        assert heights(lower) == tuple(height for height in same if height != lower)
    # All are compared with the tallest.
    assert heights(16) == (16,)
    assert heights(4, 8, 12) == (16,)


def test_rows_are_not_apart_where_experts_are_given_what_a_router_sends_them() -> None:
    """How tall an expert's product is depends on all examples of a batch, whatever their rounding here."""
    latent = CASES["deepseek-attention"].adapted()
    shared = adapt(qwen2_moe(), make_job(targets=("q_proj", "v_proj"), task="causal-lm", pooling="model"))
    for adapted in (latent, shared):
        for kind in (StackedGradients, HookedGradients):
            assert heights_apart(kind(adapted), size=8, heights=(4, 8, 12), activations=None) == ()
        shapes = Trainer(StackedGradients(adapted)).shapes(TRAINING, None)
        assert set(shapes.heights.values()) == {(1,)}


@pytest.mark.parametrize("wrap", [FirstOfEight, BlanksOfEight])
def test_a_lower_height_is_tried_in_its_first_row_and_next_to_blanks(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    heights = (4, 8, 12, 16)
    same = heights_apart(case().gradients, size=8, heights=heights, activations=None)
    found = heights_apart(disturbed(wrap).gradients, size=8, heights=heights, activations=None)
    assert found == tuple(height for height in same if height != 8)


def test_where_none_is_as_the_tallest_all_batches_have_the_height_that_leaves_few_rows_blank() -> None:
    trainer = disturbed(lambda module: ByHeight(module, (16,)))
    training = TRAINING.model_copy(update={"batch_size": 16, "physical_batch_size": 16})
    assert trainer.shapes(training, None).heights == {8: (8,), 16: (8,)}


def test_rows_of_several_sites_are_tried_with_weights_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor that all rows share is multiplied by other kernels, which may pass where these do not."""
    computed, spread = StackedGradients.backward_with, []

    def skewed(self: StackedGradients, weights: RowWeights, batch: Batch, loss: Any) -> Any:
        found = computed(self, weights, batch, loss)
        own = all(tensor.stride(0) for tensor in weights.values())
        if own:
            if len(batch.indices) > 1:  # blank rows have the weights of the first
                spread.append(min(float((w[1:] - w[:-1]).abs().amax()) for w in weights.values()))
            for gradients in found.values():
                gradients[0] *= 1 + 2.0**-20
        return found

    monkeypatch.setattr(StackedGradients, "backward_with", skewed)
    trainer = Trainer(StackedGradients(BERT.adapted()))
    usual = trainer.shapes(TRAINING, None)
    assert (1,) not in usual.heights.values()
    # Neither answer is taken for the other's.
    together = trainer.shapes(TRAINING, None, rows=usual.rows)
    assert together.heights == dict.fromkeys(usual.sizes, (1,))
    assert trainer.shapes(TRAINING, None) == usual
    assert min(spread) > 0.0  # no weight is the same in all rows


def test_is_done_once_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, calls = case(), []
    backward = trainer.gradients.backward
    noted: Callable[..., Any] = lambda *args: calls.append(1) or backward(*args)  # noqa: E731
    monkeypatch.setattr(trainer.gradients, "backward", noted)
    first = trainer.shapes(TRAINING, None)
    made = len(calls)
    assert made > 0
    assert trainer.shapes(TRAINING, None) == first
    assert len(calls) == made
    for parameter in trainer.adapted.trained.values():
        assert parameter.grad is None
        assert parameter.grad_sample is None
    # What is frozen has no mode of training.
    adapters = [module for name, module in trainer.adapted.peft.named_modules() if name.endswith("lora_A")]
    assert adapters
    assert all(module.training for module in adapters)


def test_an_example_alone_needs_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = case()
    monkeypatch.setattr(trainer.gradients, "backward", lambda *_: pytest.fail("computed"))
    training = TRAINING.model_copy(update={"physical_batch_size": 1})
    assert trainer.shapes(training, None).rows == 1
