"""Trying a family: its gradients, its repetition and what is exported of it, or how it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.gradient_check import check_gradients, comparable
from client.training.gradients import OneByOne, PerExampleGradients, losses
from client.training.unit_check import check_privacy_unit
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import ConfideError
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import keyed_entropy
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from protocol.job.strategy import State
from runs.export import export_merged
from simulation.simulated_federation import World
from tasks.data.examples import Examples
from tasks.model.classifier import classifier_class
from tasks.model.frozen_prefix import Activations
from tests.families.family import ENCODER, Family
from tests.families.trial_names import ALL_LINEAR, CAUSAL, CLASSIFIER, MEAN, TASKS, TOP

TEXTS = "\n".join(
    (
        "text,label",
        "good day,yes",
        "bad night train late food,no",
        "poor food,no",
        "fine early warm,yes",
        "late cold,no",
    )
)

# A float32 sum of n terms in another order differs by about √n · 2^-24 of its size; chains of sums of under
# 1,000 terms in models this small stay under a hundred times 2^-24 = 6e-8.
RELATIVE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: what it was refused with, or whether hooks and kept activations served."""

    refusal: str | None = None
    batched: bool = False
    kept: bool = False


def attempt(family: Family, trial: str, *, model: Path, data: Path) -> Outcome:
    """Try a family. Raises AssertionError where it trains, repeats or exports something wrong."""
    task = trial if trial in TASKS else _first_task(family)
    try:
        world = World(_job(family, trial, task, model=model, data=data))
        return _trained(world, task, whole=trial in TASKS)
    except ConfideError as error:
        return Outcome(refusal=f"{type(error).__name__}: {error}")


def _first_task(family: Family) -> str:
    """The task of the trials that are of no task: what suits a family most, and is not refused."""
    order = (MEAN, CLASSIFIER, CAUSAL) if family.reader == ENCODER else (CAUSAL, CLASSIFIER, MEAN)
    return next((task for task in order if task not in family.refused), order[0])


def _trained(world: World, task: str, *, whole: bool) -> Outcome:
    method, adapted = world.trainer.gradients, world.adapted
    (name,) = world.site_names
    examples = world.examples(name)
    activations = Activations(world.prefix, examples)
    if whole:
        check_privacy_unit(method, adapted.probe())
    with comparable(adapted):
        if not whole:
            check_gradients(method, adapted.probe())
        expected = _gradients(OneByOne(adapted), _each_alone(examples), None)
        _assert_close(_gradients(method, [examples], None), expected)
        if activations.work:
            _assert_close(_gradients(method, [examples], activations), expected)
            _assert_close(_gradients(method, [examples], activations), expected)
    if whole:
        _assert_learns(world, examples)
        _assert_exports(world, task, examples)
    return Outcome(batched=method.batched, kept=activations.work)


def _job(family: Family, trial: str, task: str, *, model: Path, data: Path) -> Job:
    classifies = task != CAUSAL
    adapter: dict[str, Any] = {"rank": 2, "target_modules": list(family.targets)}
    if trial == TOP:
        adapter["layers_to_transform"] = "top 50%"
    elif trial == ALL_LINEAR:
        adapter["target_modules"] = ["all-linear"]
    return parse_job(
        {
            "name": "tried",
            "task": "sequence-classification" if classifies else "causal-lm",
            "model": {"source": str(model), "pooling": "mean" if task == MEAN else "model"},
            "adapter": adapter,
            "data": {"source": str(data), "max_length": 8, "holdout": 0.2}
            | ({"label": "label", "labels": ["no", "yes"]} if classifies else {}),
            "federation": {"sites": 1},
            "strategy": {"name": "lora"},
            "training": {
                "rounds": 1,
                "local_steps": 2,
                "batch_size": 5,
                "physical_batch_size": 5,
                "learning_rate": 0.02,
            },
            "privacy": {"mechanism": "none"},
            "aggregation": {"kind": "none"},
            "device": {"name": "cpu", "precision": "float32", "threads": 1},
        }
    )


def _each_alone(examples: Examples) -> Iterator[Examples]:
    for index in range(len(examples)):
        yield examples.take(np.array([index]))


def _gradients(method: PerExampleGradients, parts: Any, activations: Activations | None) -> torch.Tensor:
    """One row an example: all of its gradient."""
    rows = []
    for part in parts:
        batch = part.batch(np.arange(len(part)))
        found = method.backward(batch, losses(method.adapted, activations))
        rows.append(torch.cat([gradients.flatten(1) for gradients in found.values()], dim=1))
    return torch.cat(rows)


def _assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    sizes = expected.norm(dim=1)
    assert (sizes > 1e-4).all(), "the reference must have something to say"
    off = ((found - expected).norm(dim=1) / sizes).max()
    assert off <= RELATIVE, f"a gradient is off by {off:.1e}"


def _assert_learns(world: World, examples: Examples) -> None:
    """Steps on all examples without noise lower their loss, and are the same a second time."""
    plan = SampledPlan(
        mechanism=Mechanism(name="none", multiplier=0.0),
        clipping_norm=1.0,
        sampling_rate=1.0,
        steps=2,
        delta=1e-3,
    )
    start = world.initial_adapter

    def train() -> NDArray[np.float32]:
        return world.trainer.train(
            start,
            examples,
            training=world.job.training,
            plan=plan,
            round_number=1,
            entropy=keyed_entropy(0, "site"),
            activations=None,
        )

    update = train()
    assert train().tobytes() == update.tobytes()
    assert _loss(world, start + update, examples) < _loss(world, start, examples)


def _loss(world: World, adapter: NDArray[np.float32], examples: Examples) -> float:
    world.adapted.load(adapter)
    with torch.no_grad():
        return float(world.adapted.forward(examples.batch(np.arange(len(examples)))).losses.sum())


def _assert_exports(world: World, task: str, examples: Examples) -> None:
    """The exported model, loaded by transformers alone, gives the logits of the one that was trained."""
    import transformers

    adapted = world.adapted
    random = np.random.default_rng(0)
    adapter = (0.2 * random.standard_normal(adapted.layout.adapter_size)).astype(np.float32)
    batch = examples.batch(np.arange(len(examples)))
    inputs = {key: batch.inputs[key] for key in ("input_ids", "attention_mask")}
    with TemporaryDirectory() as place:
        folder = world.create_folder(Path(place) / "run")
        folder.save_state(1, adapted.layout, State(adapter=adapter))
        export_merged(folder, Path(place) / "merged")
        if task == CAUSAL:
            kind: Any = transformers.AutoModelForCausalLM
        else:
            config = transformers.AutoConfig.from_pretrained(Path(place) / "merged")
            kind = classifier_class(config, mean=task == MEAN)
        merged = kind.from_pretrained(
            Path(place) / "merged", dtype=torch.float32, attn_implementation=world.device.attention
        )
        adapted.load(adapter)
        adapted.peft.eval()
        with torch.no_grad():
            expected, found = adapted.peft(**inputs).logits, merged.eval()(**inputs).logits
    if expected.ndim == 3:
        real = inputs["attention_mask"].bool()
        expected, found = expected[real], found[real]
    assert (found - expected).norm() <= RELATIVE * expected.norm(), "the merged model differs"
