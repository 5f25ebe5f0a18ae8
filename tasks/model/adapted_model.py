"""The base model with its LoRA adapter, and the adapter as a vector."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray
from torch import nn

from privacy.errors import ModelError, PrivacyUnitError
from protocol.job.job import AdapterSection, Job, ModelSection, top_share
from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.strategy import Strategy
from protocol.plain_text import first_line
from tasks.data.examples import Batch, Examples
from tasks.model.base_model import BaseModel
from tasks.model.device import Device
from tasks.model.frozen_modes import keep_evaluated
from tasks.model.model_layers import count_layers, layer_lists, layer_number, linear_layers
from tasks.registry import find_task, section_of
from tasks.task import Outcome

_ADAPTER = "default"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What of a job makes its model, and all that an adapted model knows of a job.

    ``data`` are the task's own keys. Models stay in memory over jobs: what may differ between jobs that
    share one is told at each call.
    """

    task: str
    data: Mapping[str, Any]
    model: ModelSection
    adapter: AdapterSection
    strategy: Strategy

    @classmethod
    def of(cls, job: Job) -> ModelSpec:
        """The parts of a job that its model is made from."""
        return cls(
            task=job.task,
            data=section_of(job).model_dump(mode="json"),
            model=job.model,
            adapter=job.adapter,
            strategy=job.strategy,
        )

    def as_table(self) -> dict[str, Any]:
        """All of it, as JSON has it: models made for equal tables are the same."""
        return {
            name: value.model_dump(mode="json") if isinstance(value, pydantic.BaseModel) else value
            for name, value in vars(self).items()
        }


class AdaptedModel:
    """One resident model whose adapter can be swapped: ``load`` a vector, train, read it back.

    Attributes:
        spec: what it was made for.
        peft: the PeftModel; its trainable parameters are the layout's trained slots.
        layout: names as PEFT saves them, so a vector and a checkpoint differ only in form.
        base: the model as it was loaded, and what its task knows of it.
        sizes: how large examples are, and what batches of them are padded to.

    Raises ModelError for a job that the model cannot carry.
    """

    def __init__(self, base: BaseModel, *, job: Job, device: Device) -> None:
        self.base = base
        self.device = device
        self.spec = spec = ModelSpec.of(job)
        self.task = find_task(job.task)
        self.sizes = self.task.sizes(base, section_of(job))
        base.model.to(device.torch)
        keep_evaluated(base.model, trained=base.head)
        layers = adapted_layers(spec, base.model)
        expected = _expected_targets(base, spec, layers)
        self.peft: Any = _attach(base, spec, layers, expected)
        _check_targets(self.peft, expected)
        self._parameters = self._collect(spec.strategy)
        self.layout = AdapterLayout(
            slots=tuple(
                TensorSlot(
                    name=name,
                    shape=tuple(p.shape),
                    trained=p.requires_grad,
                    local=p.requires_grad and spec.strategy.keeps(name),
                )
                for name, p in sorted(self._parameters.items())
            )
        )
        _check_kept(base, spec, self.layout)

    @property
    def model_digest(self) -> str:
        """SHA-256, as hex, of the base model."""
        return self.base.digest

    def forward(self, batch: Batch) -> Outcome:
        """What the model makes of a batch on its device, in its precision."""
        return self.task.forward(self, batch)

    def probe(self) -> Examples:
        """Three made-up examples, small, middling and as large as any, the same for every data set.

        What a model is tried on before it trains must say nothing about a site's own examples: whether it
        passes is told to the coordinator. What fails on a large one must fail here, on one that nobody
        wrote.
        """
        least, most = self.sizes.least, self.sizes.most
        sizes = np.array([least, (least + most) // 2, most], np.int64)
        return self.task.made_up(self, np.random.Generator(np.random.PCG64(0)), sizes)

    @property
    def exported_beside(self) -> tuple[str, ...]:
        """Layers that an exported adapter has beside what the layout lists, so that PEFT alone can load it.

        They are those that the checkpoint lacks, and others whose names end as theirs or as the head's do:
        PEFT takes these for the same.
        """
        saved = (*self.base.head, *self.base.drawn)
        names = (name.removesuffix(".original_module") for name, _ in self.base.model.named_modules())
        found = {name for name in names if name.endswith(saved)} if saved else set()
        return tuple(sorted(found - set(self.base.head)))

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that sites train, by their name in the layout, in its order."""
        return {s.name: self._parameters[s.name] for s in self.layout.slots if s.trained}

    def initial_adapter(self, seed: int) -> NDArray[np.float32]:
        """A with orthonormal rows drawn from ``seed``, B zero, the head as loaded."""
        generator = np.random.Generator(np.random.PCG64(seed))
        tensors = {}
        for slot in self.layout.slots:
            if ".lora_A." in slot.name:
                rows, columns = slot.shape
                if rows > columns:
                    raise ModelError(
                        f"adapter.rank={rows}: expected at most {columns}, the input size of "
                        f"{slot.name.partition('.lora_A.')[0]}"
                    )
                gaussian = generator.standard_normal((columns, rows))
                tensors[slot.name] = np.linalg.qr(gaussian)[0].T.astype(np.float32)
            elif ".lora_B." in slot.name:
                tensors[slot.name] = np.zeros(slot.shape, np.float32)
            else:
                tensors[slot.name] = self._parameters[slot.name].detach().cpu().numpy()
        return self.layout.join(tensors)

    def load(self, adapter: NDArray[np.float32]) -> None:
        """Put an adapter vector, float32[adapter_size], into the model."""
        with torch.no_grad():
            for name, tensor in self.layout.split(adapter).items():
                self._parameters[name].copy_(torch.from_numpy(tensor.copy()))

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Within this block the adapter is zero; after it there is again what was loaded."""
        held = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        with torch.no_grad():
            for parameter in self._parameters.values():
                parameter.zero_()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(held[name])

    def now(self) -> NDArray[np.float32]:
        """The adapter that the model has: float32[adapter_size]."""
        return self.layout.join({name: p.detach().cpu().numpy() for name, p in self._parameters.items()})

    def update_since(self, adapter: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a site sends of its training, which began with ``adapter``: float32[update_size]."""
        return self.spec.strategy.encode(self.layout, adapter, self.now())

    def _collect(self, strategy: Strategy) -> dict[str, nn.Parameter]:
        """The adapter's parameters by the name that PEFT saves them under."""
        from peft import get_peft_model_state_dict

        found = {}
        for name, parameter in self.peft.named_parameters():
            if not parameter.requires_grad:
                continue
            saved = name.replace(f".modules_to_save.{_ADAPTER}.", ".").replace(f".{_ADAPTER}.", ".")
            found[saved] = parameter.requires_grad_(strategy.trains(saved))
        # Told that no embedding is trained: PEFT would ask the Hub for the model that the job names.
        saved_names = set(get_peft_model_state_dict(self.peft, save_embedding_layers=False))
        if saved_names != set(found):
            odd = sorted(saved_names ^ set(found))
            raise ModelError(
                f"PEFT saves other tensors than are trained: {', '.join(odd[:5])}. A head with running "
                "means would keep something of examples: choose a model without"
            )
        return found


def _check_kept(base: BaseModel, spec: ModelSpec, layout: AdapterLayout) -> None:
    """Raises ModelError where a site would keep what there is not, or all that it trains."""
    strategy = spec.strategy
    if strategy.keep_local == "head" and not base.head:
        raise ModelError(
            f'strategy.keep_local: expected "nothing" with task="{spec.task}", whose models have no head '
            "to keep"
        )
    if not layout.update_size:
        raise ModelError(
            f'strategy.keep_local: expected "nothing" with strategy.name="{strategy.name}": all that is '
            "trained would stay at the sites"
        )


def adapted_layers(spec: ModelSpec, model: Any) -> list[int] | None:
    """The layers that carry adapters, or None for all. Raises ModelError if one does not exist."""
    asked = spec.adapter.layers_to_transform
    if asked is None:
        return None
    count = count_layers(model)
    if isinstance(asked, str):
        share = top_share(asked) or 1.0
        # Rounded first: 0.28 · 25 is a hair above 7 in floating point, and would become 8.
        return list(range(count - math.ceil(round(share * count, 6)), count))
    if max(asked) >= count:
        raise ModelError(f"adapter.layers_to_transform: expected layers 0 to {count - 1}, got {max(asked)}")
    return sorted(set(asked))


def _attach(base: BaseModel, spec: ModelSpec, layers: list[int] | None, expected: set[str]) -> Any:
    from peft import LoraConfig, get_peft_model
    from peft.utils import ModulesToSaveWrapper

    targets = spec.adapter.target_modules
    # PEFT looks for endings and for the first number in a name, which may be another part's or block's.
    everything = [name for name, _ in base.model.named_modules()]
    short = layers is None and expected == set(_matching(everything, targets))
    config = LoraConfig(
        task_type=base.peft_type,
        r=spec.adapter.rank,
        lora_alpha=spec.adapter.alpha,
        lora_dropout=spec.adapter.dropout,
        target_modules=targets if short else sorted(expected),
        modules_to_save=list(base.head) or None,
        base_model_name_or_path=spec.model.source,
    )
    called = _call_names(base)  # before PEFT, which may fail half-way
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fan_in_fan_out is set right by PEFT, which says so
        try:
            peft = get_peft_model(base.model, config, adapter_name=_ADAPTER)
        except Exception as error:  # PEFT and the model's class raise whatever they like
            raise ModelError(f"adapter.target_modules={targets}: {first_line(error)}. {called}") from error
    # PEFT takes whatever ends with a head's name for it: DistilBERT has a pre_classifier, too.
    for name, module in list(base.model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper) and name not in base.head:
            base.model.set_submodule(name, module.original_module)
    return peft


def _linear_names(base: BaseModel) -> list[str]:
    return [name for name, _ in linear_layers(base.model) if base.may_adapt(name)]


def _matching(names: list[str], targets: list[str]) -> list[str]:
    return [name for name in names if any(f".{name}".endswith(f".{target}") for target in targets)]


def _call_names(base: BaseModel) -> str:
    names = sorted({n.rsplit(".", 1)[-1] for n in _linear_names(base)})
    if not names:
        return "this model has no linear layers under its head that texts use: choose another model"
    return f"This model's linear layers are called: {', '.join(names)}"


def _expected_targets(base: BaseModel, spec: ModelSpec, layers: list[int] | None) -> set[str]:
    """Names of the linear layers that the job's targets name, found without PEFT.

    Raises ModelError if a target names none: PEFT is content when any of them names one.
    """
    targets, names = spec.adapter.target_modules, _linear_names(base)
    if "all-linear" in targets and len(targets) > 1:
        raise ModelError(f'adapter.target_modules={targets}: expected "all-linear" alone, or names')
    if targets != ["all-linear"]:
        unknown = [target for target in targets if not _matching(names, [target])]
        if unknown:
            raise ModelError(
                f"adapter.target_modules={unknown}: expected the names of linear layers under the "
                f"head. {_call_names(base)}"
            )
        names = _matching(names, targets)
    if not names:
        raise ModelError(f"adapter.target_modules={targets}: {_call_names(base)}")
    if layers is None:
        return set(names)
    lists = layer_lists(base.model)
    chosen = {name for name in names if layer_number(name, lists) in layers}
    if not chosen:
        held = sorted({number for name in names if (number := layer_number(name, lists)) is not None})
        raise ModelError(
            f"adapter.layers_to_transform: none of {', '.join(map(str, targets))} is in layer "
            f"{', '.join(map(str, layers))}; expected one of {', '.join(map(str, held)) or 'none'}"
        )
    return chosen


def _check_targets(peft_model: Any, expected: set[str]) -> None:
    """Refuse if PEFT put LoRA anywhere else than on the linear layers that were asked for.

    PEFT moves names that match parts of a fused mixture-of-experts layer onto its routed experts
    without a word, where per-example gradients do not exist.
    """
    prefix = "base_model.model."
    carrying = {
        name.removeprefix(prefix)
        for name, module in peft_model.named_modules()
        if hasattr(module, "lora_A") and len(module.lora_A)
    }
    odd = sorted(carrying ^ expected)
    if odd:
        wrong = {name.removesuffix(".base_layer").rpartition(".")[2] for name in odd}
        left = sorted({name.rpartition(".")[2] for name in expected} - wrong)
        raise PrivacyUnitError(
            "PEFT puts LoRA elsewhere than adapter.target_modules asks for, such as on routed experts in "
            f"place of shared ones; it differs at {', '.join(odd[:4])}. Name other layers: "
            f"{', '.join(left) or 'this model has none'}"
        )
