"""The base model with its LoRA adapter, and the adapter as a vector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from privacy.errors import ModelError
from protocol.job.job import Job
from protocol.job.layout import RESIDUAL, AdapterLayout
from protocol.job.strategy import Strategy
from tasks.data.examples import Batch, Examples
from tasks.model.adapter_start import Matrix, olora, orthonormal_rows, pissa, singular_factors
from tasks.model.attach_adapter import ADAPTER, attach
from tasks.model.base_model import BaseModel
from tasks.model.device import Device
from tasks.model.feature_scale import FeatureScale
from tasks.model.frozen_modes import follow_where_biases_are_trained, keep_evaluated
from tasks.model.model_spec import ModelSpec
from tasks.model.moved_weights import MovedWeights
from tasks.model.recomputed_layers import Key, offload_layers, recompute_layers
from tasks.model.reference_model import ReferenceModel
from tasks.model.routed_experts import ExpertPair
from tasks.registry import section_of, task_of
from tasks.task import Outcome


class AdaptedModel:
    """One resident model whose adapter can be swapped: ``load`` a vector, train, read it back.

    Attributes:
        spec: what it was made for.
        peft: the PeftModel; its trainable parameters are the trained slots of ``round_layout``.
        layout: names as PEFT saves them, so a vector and a checkpoint differ only in form.
        round_layout: the same with what the round trains that ``train_in`` named last; all, before that.
        base: the model as it was loaded, and what its task knows of it.
        sizes: how large examples are, and what batches of them are padded to.
        features: what the head's features are less, and times.
        recomputed_for: the key for which layers are computed again on the way back; None if they are not.

    Raises ModelError for a job that the model cannot carry.
    """

    def __init__(self, base: BaseModel, *, job: Job, device: Device) -> None:
        self.base = base
        self.device = device
        self.spec = spec = ModelSpec.of(job)
        self.task = task_of(job)
        self.sizes = self.task.sizes(base, section_of(job))
        offload = device.offload and not base.trained_whole  # of which nothing would wait
        self.recomputed_for: Key | None = "model.checkpointing" if spec.model.checkpointing else None
        if offload:
            self.recomputed_for = "device.offload"
        else:
            base.model.to(device.torch)
        keep_evaluated(base.model, trained=base.head)
        self.peft: Any = attach(base, spec.adapter, source=spec.model.source)
        if spec.strategy.cored:
            from tasks.model.adapter_core import add_cores

            add_cores(self.peft, adapter=ADAPTER)
        self._parameters = self._collect(spec.strategy)
        if offload:
            resident = frozenset(map(id, self._parameters.values()))
            offload_layers(base.model, device=device.torch, resident=resident)
        elif spec.model.checkpointing:
            recompute_layers(base.model, key="model.checkpointing")
        follow_where_biases_are_trained(base.model)
        self._starts = self._take_out_starts() if spec.adapter.changes_base else {}
        self._moved = MovedWeights(self.peft, adapter=ADAPTER, wanted=spec.strategy.residual)
        self._reference = ReferenceModel(self.peft, self._parameters, adapter=ADAPTER, task=spec.task)
        wanted = spec.model.features is not None
        self.features = FeatureScale(self.peft, head=base.head, adapter=ADAPTER, wanted=wanted)
        shapes = {name: tuple(p.shape) for name, p in self._parameters.items()}
        self.layout = spec.strategy.lay_out(shapes | self._moved.shapes | self.features.shapes)
        self.round_layout, self._round = self.layout, 0
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
        """The parameters that sites train in this round, by their name in the layout, in its order."""
        return {s.name: self._parameters[s.name] for s in self.round_layout.slots if s.trained}

    def train_in(self, round_number: int) -> None:
        """From here on what is trained is what the job trains in a round, which counts from 1."""
        self._round = round_number
        found = self.spec.trained_rounds.in_round(self.layout, round_number)
        if found != self.round_layout:
            self.round_layout = found
            trained = {slot.name for slot in found.slots if slot.trained}
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(name in trained)

    def initial_adapter(self, seed: int) -> NDArray[np.float32]:
        """What the first round begins with: heads and biases as loaded, and pairs as ``adapter.init`` says.

        Drawn from ``seed`` are rows of A, B being zero. Pairs with a core begin as singular vectors of the
        layer's weight, with the core zero. Others are taken out of the base model. Residuals are zero.
        Raises ModelError.
        """
        generator = np.random.Generator(np.random.PCG64(seed))
        tensors = self._starts | self.features.at_first
        for slot in self.layout.slots:
            layer, half, _ = slot.name.partition(".lora_A.")
            if slot.name in tensors:
                continue
            if half and self.spec.strategy.cored:
                weight = self._weight(layer)
                left, _, right = singular_factors(weight, self._rank(layer, most=min(weight.shape)))
                tensors |= self._pair(layer, right, left)
            elif half:
                rank = self._rank(layer, most=slot.size // slot.shape[0])
                drawn = orthonormal_rows(rank, slot.size // rank, generator)
                tensors[slot.name] = drawn.reshape(slot.shape).astype(np.float32)
            elif slot.name.endswith((".lora_B.weight", ".lora_C.weight", RESIDUAL)):
                tensors[slot.name] = np.zeros(slot.shape, np.float32)
            else:
                tensors[slot.name] = self._parameters[slot.name].detach().cpu().numpy()
        return self.layout.join(tensors)

    def load(self, adapter: NDArray[np.float32]) -> None:
        """Put an adapter vector, float32[adapter_size], into the model."""
        tensors = self.layout.split(adapter)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(torch.from_numpy(tensors[name].copy()))
        self._moved.put(tensors)
        self.features.put(tensors)

    def some_adapter(self, seed: int) -> NDArray[np.float32]:
        """An adapter to try the model with: each number of PEFT's drawn, so that no gradient is zero.

        Residuals stay zero: of such numbers they would be the whole layer.
        """
        drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(self.layout.adapter_size)
        adapter = (0.05 * drawn).astype(np.float32)
        for name, tensor in self.layout.split(adapter).items():
            if name not in self._parameters:
                tensor[:] = self.features.at_first.get(name, 0.0)
        return adapter

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Within this block the adapter is zero; after it there is again what was loaded."""
        held = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        with torch.no_grad():
            for parameter in self._parameters.values():
                parameter.zero_()
        try:
            with self._moved.at_rest():
                yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(held[name])

    def begin_with(self, adapter: NDArray[np.float32]) -> None:
        """Take this adapter, float32[adapter_size], for the one that training began with.

        A task that compares with that is told before anything is kept of its examples. Raises ModelError
        where a pair of it is not of linear layers.
        """
        self._reference.begin_with(self.layout.split(adapter))

    @contextmanager
    def as_it_began(self) -> Iterator[None]:
        """Within this block the model is what its training began with, whatever is loaded or trained.

        That is the base model, or what ``begin_with`` was told. Raises ModelError where something is
        trained that cannot be left out.
        """
        with self._moved.at_rest(), self._reference.in_place():
            yield

    def now(self) -> NDArray[np.float32]:
        """The adapter that the model has: float32[adapter_size]."""
        tensors = {name: p.detach().cpu().numpy() for name, p in self._parameters.items()}
        return self.layout.join(tensors | self._moved.residuals | self.features.tensors)

    def update_since(self, adapter: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a site sends of its training, which began with ``adapter``: float32[update_size]."""
        return self.spec.trained_rounds.encode(self.round_layout, adapter, self.now(), self._round)

    def _take_out_starts(self) -> dict[str, NDArray[np.float32]]:
        """A and B by name that are a part of each layer's weight, which is less by s · B · A from now on.

        Every machine takes out its own: in float64, so that they agree to the rounding of the weight.
        """
        adapter, starts = self.spec.adapter, dict[str, NDArray[np.float32]]()
        for layer in (name.partition(".lora_A.")[0] for name in self._parameters if ".lora_A." in name):
            weight, module = self._weight(layer), self.peft.get_submodule(layer)
            rank, scale = self._rank(layer, most=min(weight.shape)), module.scaling[ADAPTER]
            pair = (
                pissa(weight, rank, scale, layer) if adapter.init == "pissa" else olora(weight, rank, layer)
            )
            starts |= self._pair(layer, *pair)
            first, last = (
                starts[f"{layer}.lora_{side}.weight"].astype(np.float64).reshape(pair[side == "B"].shape)
                for side in "AB"
            )
            rest = weight - scale * (last @ first)
            base = module.get_base_layer()
            found = torch.from_numpy(rest.T.copy() if _turned(module) else rest).reshape(base.weight.shape)
            # A tensor of its own: one that another layer shares stays whole there.
            base.weight = nn.Parameter(found.to(base.weight), requires_grad=False)
        return starts

    def _weight(self, layer: str) -> Matrix:
        """The weight of a layer that carries a pair, as a matrix of its outputs by its inputs."""
        module = self.peft.get_submodule(layer)
        found: Matrix = module.get_base_layer().weight.detach().cpu().numpy().astype(np.float64)
        return found.T if _turned(module) else found.reshape(len(found), -1)

    def _rank(self, layer: str, *, most: int) -> int:
        """The rank of a layer's pair. Raises ModelError where its matrices allow less."""
        rank = int(self.peft.get_submodule(layer).r[ADAPTER])
        if rank > most:
            key = "rank" if rank == self.spec.adapter.rank else "rank_pattern"
            raise ModelError(
                f"adapter.{key}: expected at most {most}, the input size of {layer}, got {rank}"
            )
        return rank

    def _pair(self, layer: str, first: Matrix, last: Matrix) -> dict[str, NDArray[np.float32]]:
        """A and B by name, each in its tensor's shape."""
        names = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
        return {
            name: half.reshape(tuple(self._parameters[name].shape)).astype(np.float32)
            for name, half in zip(names, (first, last), strict=True)
        }

    def _collect(self, strategy: Strategy) -> dict[str, nn.Parameter]:
        """The adapter's parameters by the name that PEFT saves them under."""
        from peft import get_peft_model_state_dict

        found = {}
        for name, parameter in self.peft.named_parameters():
            if not parameter.requires_grad:
                continue
            saved = name.replace(f".modules_to_save.{ADAPTER}.", ".").replace(f".{ADAPTER}.", ".")
            found[saved] = parameter.requires_grad_(strategy.trains(saved))
        # Told that no embedding is trained: PEFT would ask the Hub for the model that the job names.
        saved_names = {
            name
            for name in get_peft_model_state_dict(self.peft, save_embedding_layers=False)
            # With biases PEFT lists those of a head as both of its copies have them, too.
            if not any(part in name for part in (".original_module.", ".modules_to_save."))
        }
        # Routed experts' pairs are no layers of PEFT's: they are saved in its form all the same.
        routed = {id(p) for m in self.peft.modules() if isinstance(m, ExpertPair) for p in m.parameters()}
        expected = {name for name, parameter in found.items() if id(parameter) not in routed}
        if saved_names != expected:
            odd = sorted(saved_names ^ expected)
            raise ModelError(
                f"PEFT saves other tensors than are trained: {', '.join(odd[:5])}. A head with running "
                "means would keep something of examples: choose a model without"
            )
        return found


def _turned(module: nn.Module) -> bool:
    """Whether a layer has its weight as inputs by outputs, as GPT-2's are."""
    return bool(getattr(module, "fan_in_fan_out", False))


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
