"""The base model: found, loaded without running any code of its own, frozen and known by its digest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from privacy.errors import ModelError
from protocol.job.job import Job
from tasks.data.package_path import package_path
from tasks.model.device import Device
from tasks.model.model_digest import config_content, model_digest, tokenizer_content
from tasks.model.model_limits import check_tokenizer, count_tokens
from tasks.registry import find_task, section_of

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model before it has an adapter.

    ``digest`` is SHA-256 (hex) of all that decides what comes out. ``reader`` is what its task makes
    examples of rows with. ``head`` names the modules that are trained whole, beside the adapter, and
    ``peft_type`` the task as PEFT calls it, None for a model that is none of transformers'. An example may
    be as large as ``limit``, None if the model sets none.
    """

    model: nn.Module
    digest: str
    reader: Any
    head: tuple[str, ...]
    peft_type: str | None
    limit: int | None


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What transformers loads: frozen weights, a tokenizer, and the digest of both with the config."""

    model: nn.Module
    tokenizer: Any
    digest: str


def load_base_model(job: Job, *, labels: tuple[str, ...], device: Device) -> BaseModel:
    """Load, freeze and digest the base model that the job names, as its task wants it.

    Raises ModelError with the key to change.
    """
    return find_task(job.task).load(job, section_of(job), labels=labels, device=device)


def load_pretrained(
    job: Job,
    *,
    kind: str,
    labels: tuple[str, ...],
    device: Device,
    prepare: Callable[[nn.Module], None] = lambda _model: None,
) -> Pretrained:
    """Load a model as transformers' class ``kind``, ``prepare`` and freeze it. Raises ModelError."""
    _be_quiet()
    import transformers

    source = job.model.source
    where = str(package_path(source)) if source.startswith("package:") else source
    # No code that comes with a model is run, nor asked about; what is on disk is not looked for elsewhere.
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": Path(where).exists()}
    if job.model.gguf:
        options["gguf_file"] = job.model.gguf
    try:
        _refuse_other_files(job, Path(where), kind)
        config = transformers.AutoConfig.from_pretrained(where, **options)
        _refuse_named_pickle(job, config, kind)
        told = config_content(config)
        _switch_dropout_off(config)
        if labels:
            config.num_labels = len(labels)
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: index for index, label in enumerate(labels)}
        model = getattr(transformers, kind).from_pretrained(
            where,
            config=config,
            dtype=torch.float32,
            attn_implementation=device.attention,
            use_safetensors=True,
            **options,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        _refuse_adapter(job, found=getattr(model, "_hf_peft_config_loaded", False))
        content = tokenizer_content(tokenizer)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        check_tokenizer(tokenizer, tokens=count_tokens(model))
    except ModelError:
        raise
    except Exception as error:  # transformers, its hub and safetensors raise whatever they like
        if "use_safetensors=True" in str(error):  # what transformers says of a Hub id with pickles alone
            raise _pickled(job, "no safetensors", kind) from error
        raise ModelError(
            f"model.source={source!r} could not be loaded: {_first_line(error)}. Expected a folder "
            "with config and weights in safetensors, a package:NAME/PATH, or a Hugging Face id that this "
            "machine can reach; after an interrupted download, run the command again"
        ) from error
    model.config.use_cache = False  # nothing is generated here
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    prepare(model)
    model.requires_grad_(False)
    digest = model_digest(model, config=told, tokenizer=content)
    return Pretrained(model=model, tokenizer=tokenizer, digest=digest)


def load_tokenizer(source: str) -> tuple[Any, int]:
    """The tokenizer of a folder, package or Hub id, and how many tokens its config says that it knows.

    Raises ModelError where a tokenizer cannot be had by itself, as from GGUF files.
    """
    _be_quiet()
    import transformers

    where = str(package_path(source)) if source.startswith("package:") else source
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": Path(where).exists()}
    try:
        config = transformers.AutoConfig.from_pretrained(where, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:  # transformers and its hub raise whatever they like
        raise ModelError(f"{source!r}: no tokenizer by itself: {_first_line(error)}") from error
    return tokenizer, int(config.get_text_config().vocab_size)


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the classification head's modules; empty for a language model."""
    known = ("classifier", "score")
    children = dict(model.named_children())
    return tuple(name for name in known if name in children)


def _refuse_other_files(job: Job, folder: Path, kind: str) -> None:
    """Raises ModelError for a folder with pickled weights alone, or with an adapter in it."""
    _refuse_adapter(job, found=(folder / "adapter_config.json").exists())
    if job.model.gguf:
        return
    files = {path.name for path in folder.glob("*.safetensors")}
    for index in folder.glob("*.safetensors.index.json"):
        files |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    pickled = {path.name for pattern in _PICKLED for path in folder.glob(pattern)}
    other = {name for name in files if not name.endswith(".safetensors")}
    if other or (pickled and not files):
        raise _pickled(job, min(other or pickled), kind)


def _refuse_named_pickle(job: Job, config: Any, kind: str) -> None:
    """Raises ModelError where a config names weights of another kind than safetensors."""
    named = getattr(config, "transformers_weights", None)
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise _pickled(job, str(named), kind)


def _pickled(job: Job, file: str, kind: str) -> ModelError:
    return ModelError(
        f"model.source={job.model.source!r} has its weights in {file}, and reading a pickle can run code: "
        "expected safetensors. Where you trust it, convert it once, in Python: transformers."
        f"{kind}.from_pretrained(SOURCE).save_pretrained(FOLDER); then copy the tokenizer's files there"
    )


def _refuse_adapter(job: Job, *, found: bool) -> None:
    if found:
        # It names a base model of its own choice, and what it scales is in no tensor.
        raise ModelError(
            f"model.source={job.model.source!r} holds an adapter of PEFT's: expected a whole model; merge "
            "it first, or take adapter_config.json out"
        )


def _switch_dropout_off(config: Any) -> None:
    """Frozen layers run without dropout: their activations are then a function of the example."""
    for name, value in list(vars(config).items()):
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)


def _be_quiet() -> None:
    """transformers draws progress bars and a load report into the terminal table otherwise."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # for what is not imported yet, such as the GGUF reader
    # Where the Hub has pickles alone, transformers would ask a service there for another's conversion.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
