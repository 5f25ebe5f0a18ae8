"""A whole model with its linear layers in eight bits, as a folder that stock transformers loads.

Each row of a weight is int8 with a float32 scale, its largest magnitude over 127, as bitsandbytes has it,
which rounds activations to eight bits, too, but for outliers (Dettmers et al. 2022, arXiv:2208.07339).
Embeddings, norms, biases, the classifier's head and a language model's output layer stay float32.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from privacy.errors import UserError
from protocol.job.job import Job
from tasks.model.base_model import BaseModel
from tasks.model.classifier import made_here
from tasks.model.device import Device
from tasks.model.model_layers import linear_layers
from tasks.registry import find_task
from tasks.text import TextTask


class Int8Folder:
    """``--quantize int8``: models of texts, with PyTorch's linear layers."""

    name = "int8"
    scheme = (
        "Linear layers have int8 weights with one float32 scale a row (bitsandbytes, LLM.int8); "
        "embeddings, norms, biases and the head are float32"
    )
    loading = (
        "With `from_pretrained` of transformers, as any model folder, where bitsandbytes is installed too: "
        "`pip install bitsandbytes`."
    )

    def check_job(self, job: Job) -> None:
        if not isinstance(find_task(job.task), TextTask):
            raise UserError(
                f'--quantize int8: expected a task whose models read texts, got task="{job.task}": use '
                "--merge without it"
            )
        # Not imported yet: it speaks up unless ``be_quiet`` came first.
        if find_spec("bitsandbytes") is None:
            raise UserError("--quantize int8 needs bitsandbytes: pip install 'confide[quantized]'")

    def check_model(self, base: BaseModel) -> None:
        kind = type(base.model).__name__
        if made_here(base.model):
            raise UserError(
                f"--quantize int8: transformers has no class for {kind}, and so could not load it: use "
                "--merge without it"
            )
        layers = linear_layers(base.model)
        if not any(
            isinstance(layer, nn.Linear) and not name.startswith(base.head) for name, layer in layers
        ):
            raise UserError(
                f"--quantize int8: {kind} has no linear layers of PyTorch's to pack beside its head: use "
                "--merge without it"
            )

    def write(self, merged: Any, base: BaseModel, job: Job, folder: Path) -> None:
        from transformers import BitsAndBytesConfig

        # By way of a folder: only what transformers has packed while it loads can it save again.
        whole = folder / ".float32"
        try:
            find_task(job.task).export(merged, base, whole)
            kept = list(base.head) or None  # None: what transformers leaves whole, such as output layers
            plan = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
            packed = type(merged).from_pretrained(
                whole, quantization_config=plan, dtype=torch.float32, local_files_only=True
            )
            packed.save_pretrained(folder)
        finally:
            shutil.rmtree(whole, ignore_errors=True)
        base.reader.tokenizer.save_pretrained(folder)

    def load(self, folder: Path, merged: Any, device: Device) -> Any:
        loaded = type(merged).from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=device.attention,
            use_safetensors=True,
            local_files_only=True,
        )
        loaded.config.use_cache = False
        return loaded

    def weights(self, folder: Path) -> tuple[Path, ...]:
        return tuple(sorted(folder.glob("*.safetensors")))
