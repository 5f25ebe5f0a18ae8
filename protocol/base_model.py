"""The base model: found, loaded, frozen and known by its digest."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from privacy.errors import ModelError
from protocol.device import Device
from protocol.job import Job


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """Frozen weights, tokenizer and SHA-256 digest (hex) of the weights."""

    model: nn.Module
    tokenizer: Any
    digest: str


def package_path(source: str) -> Path:
    """The file or folder that ``package:NAME/PATH`` names inside an installed package.

    The package is located, not imported: packages that carry weights often import a runtime that is
    not needed here. Raises ModelError if it is not installed or holds no such path.
    """
    name, _, inside = source.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"source={source!r}: the package {name!r} is not installed; "
            "install the demo's parts (see the README) or name a folder or a Hugging Face id"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.exists():
        raise ModelError(f"source={source!r}: the package {name!r} has no {inside!r}")
    return path


def load_base_model(job: Job, *, labels: tuple[str, ...], device: Device) -> BaseModel:
    """Load, freeze and digest the base model that the job names.

    A classifier is loaded as transformers' token classifier when ``model.pooling = "mean"``: a
    linear head on the mean of the tokens is the mean of that head on the tokens, so the exported
    model needs no class that transformers does not have. Raises ModelError with the key to change.
    """
    _be_quiet()
    import transformers

    source = job.model.source
    where = str(package_path(source)) if source.startswith("package:") else source
    gguf = {"gguf_file": job.model.gguf} if job.model.gguf else {}
    try:
        config = transformers.AutoConfig.from_pretrained(where, **gguf)
        _switch_dropout_off(config)
        if labels:
            config.num_labels = len(labels)
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: index for index, label in enumerate(labels)}
        loader = _auto_class(job, transformers)
        model = loader.from_pretrained(
            where, config=config, dtype=torch.float32, attn_implementation=device.attention, **gguf
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **gguf)
    except Exception as error:  # transformers, its hub and safetensors raise whatever they like
        raise ModelError(
            f"model.source={source!r} could not be loaded: {_first_line(error)}. Expected a folder "
            "with config and weights, a package:NAME/PATH, or a Hugging Face id that this machine "
            "can reach; after an interrupted download, run the command again"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.use_cache = False  # nothing is generated here
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    _zero_head(model, job)
    model.requires_grad_(False)
    return BaseModel(model=model, tokenizer=tokenizer, digest=weights_digest(model))


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, as hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        digest.update(data.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the classification head's modules; empty for a language model."""
    known = ("classifier", "score")
    children = dict(model.named_children())
    return tuple(name for name in known if name in children)


def _auto_class(job: Job, transformers: Any) -> Any:
    if job.task == "causal-lm":
        return transformers.AutoModelForCausalLM
    if job.model.pooling == "mean":
        return transformers.AutoModelForTokenClassification
    return transformers.AutoModelForSequenceClassification


def _switch_dropout_off(config: Any) -> None:
    """Frozen layers run without dropout: their activations are then a function of the example."""
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)


def _zero_head(model: nn.Module, job: Job) -> None:
    """A head that no checkpoint holds starts at zero, so that every site starts from the same one."""
    if job.task == "causal-lm":
        return
    names = head_names(model)
    if not names:
        raise ModelError(
            f"model.source={job.model.source!r} has no classification head named classifier or "
            "score: choose another model or task"
        )
    for name in names:
        for parameter in model.get_submodule(name).parameters():
            nn.init.zeros_(parameter)


def _be_quiet() -> None:
    """transformers draws progress bars and a load report into the terminal table otherwise."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # for what is not imported yet, such as the GGUF reader
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
