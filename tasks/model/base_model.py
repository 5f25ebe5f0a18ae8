"""The base model: found, loaded without running any code of its own, frozen and known by its digest."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from privacy.errors import ModelError
from protocol.job.job import Job
from tasks.model.device import Device
from tasks.model.model_digest import config_content, model_digest, tokenizer_content
from tasks.model.model_limits import check_tokenizer, count_tokens

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """Frozen weights, tokenizer and the SHA-256 digest (hex) of both with the config."""

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
    # No code that comes with a model is run, nor asked about; what is on disk is not looked for elsewhere.
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": Path(where).exists()}
    if job.model.gguf:
        options["gguf_file"] = job.model.gguf
    try:
        _refuse_other_files(job, Path(where))
        config = transformers.AutoConfig.from_pretrained(where, **options)
        _refuse_named_pickle(job, config)
        told = config_content(config)
        _switch_dropout_off(config)
        if labels:
            config.num_labels = len(labels)
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: index for index, label in enumerate(labels)}
        model = _auto_class(job, transformers).from_pretrained(
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
            raise _pickled(job, "no safetensors") from error
        raise ModelError(
            f"model.source={source!r} could not be loaded: {_first_line(error)}. Expected a folder "
            "with config and weights in safetensors, a package:NAME/PATH, or a Hugging Face id that this "
            "machine can reach; after an interrupted download, run the command again"
        ) from error
    model.config.use_cache = False  # nothing is generated here
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    _zero_head(model, job)
    model.requires_grad_(False)
    digest = model_digest(model, config=told, tokenizer=content)
    return BaseModel(model=model, tokenizer=tokenizer, digest=digest)


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


def _auto_class(job: Job, transformers: Any) -> Any:
    if job.task == "causal-lm":
        return transformers.AutoModelForCausalLM
    if job.model.pooling == "mean":
        return transformers.AutoModelForTokenClassification
    return transformers.AutoModelForSequenceClassification


def _refuse_other_files(job: Job, folder: Path) -> None:
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
        raise _pickled(job, min(other or pickled))


def _refuse_named_pickle(job: Job, config: Any) -> None:
    """Raises ModelError where a config names weights of another kind than safetensors."""
    named = getattr(config, "transformers_weights", None)
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise _pickled(job, str(named))


def _pickled(job: Job, file: str) -> ModelError:
    name = "AutoModelForCausalLM" if job.task == "causal-lm" else "AutoModelForSequenceClassification"
    return ModelError(
        f"model.source={job.model.source!r} has its weights in {file}, and reading a pickle can run code: "
        "expected safetensors. Where you trust it, convert it once, in Python: transformers."
        f"{name}.from_pretrained(SOURCE).save_pretrained(FOLDER); then copy the tokenizer's files there"
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
    # Where the Hub has pickles alone, transformers would ask a service there for another's conversion.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
