"""A base model's files: where they are, and which of them are read at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

from privacy.errors import ModelError
from protocol.job.job import DRAWN, Job
from protocol.plain_text import first_line
from tasks.data.file_kinds import is_pointer
from tasks.model.folder_faults import find_fault, find_tokenizer_fault

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def loading_options(where: str) -> dict[str, Any]:
    """No code that comes with a model is run or asked about; what is here is not looked for elsewhere."""
    return {"trust_remote_code": False, "local_files_only": Path(where).exists()}


def be_quiet() -> None:
    """transformers draws progress bars and a load report into the terminal table otherwise."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # for what is not imported yet, such as the GGUF reader
    # Where the Hub has pickles alone, transformers would ask a service there for another's conversion.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)  # what is wrong is said once, and not in its words
    getLogger("bitsandbytes").setLevel("CRITICAL")  # faster kernels than its own are not to be had
    logging.disable_progress_bar()


def check_place(job: Job, where: str) -> None:
    """Raises ModelError where a source is plainly no model's folder, and says what it is."""
    place, source = Path(where), f"model.source={job.model.source!r}"
    if job.model.source == DRAWN:
        raise ModelError(f"{source}: expected a pretrained model: this task has no network of its own")
    if "://" in job.model.source:
        raise ModelError(f"{source}: expected a folder here, or a model's name on the Hub, as org/name")
    if not place.exists():
        # A name of the Hub has one stroke at most, and begins with neither that nor a dot.
        if place.is_absolute() or source.count("/") > 1 or job.model.source.startswith(("./", "../")):
            raise ModelError(f"{source}: there is no such folder on this machine")
        return
    if not place.is_dir():
        raise ModelError(f"{source} is a file: name its folder, which has config and tokenizer too")
    if (place / "snapshots").is_dir() and not (place / "config.json").exists():
        raise ModelError(f"{source} is a cache of the Hub's: name one of the folders in its snapshots/")
    for path in sorted(place.iterdir()):
        if path.is_file() and is_pointer(path):
            raise ModelError(
                f"{source}: {path.name} is a Git LFS pointer: fetch the files with `git lfs pull`"
            )


def refuse_other_files(job: Job, folder: Path, kind: str) -> None:
    """Raises ModelError for a folder with pickled weights alone."""
    if job.model.gguf:
        return
    files = {path.name for path in folder.glob("*.safetensors")}
    for index in folder.glob("*.safetensors.index.json"):
        files |= set(map(str, json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    pickled = {path.name for pattern in _PICKLED for path in folder.glob(pattern)}
    other = {name for name in files if not name.endswith(".safetensors")}
    if other or (pickled and not files):
        raise pickled_weights(job, min(other or pickled), kind)


def refuse_named_pickle(job: Job, config: Any, kind: str) -> None:
    """Raises ModelError where a config names weights of another kind than safetensors."""
    named = getattr(config, "transformers_weights", None)
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise pickled_weights(job, str(named), kind)


def pickled_weights(job: Job, file: str, kind: str) -> ModelError:
    """What is said of weights that are not in safetensors."""
    return ModelError(
        f"model.source={job.model.source!r} has its weights in {file}, and reading a pickle can run code: "
        "expected safetensors. Where you trust it, convert it once, in Python: transformers."
        f"{kind}.from_pretrained(SOURCE).save_pretrained(FOLDER); then copy the tokenizer's files there"
    )


def refuse_adapter(job: Job, *, found: bool) -> None:
    """Raises ModelError for an adapter in place of a model."""
    if found:
        # It names a base model of its own choice, and what it scales is in no tensor.
        raise ModelError(
            f"model.source={job.model.source!r} holds an adapter of PEFT's: expected a whole model; merge "
            "it first, or take adapter_config.json out"
        )


@contextmanager
def loading_faults(job: Job, where: str) -> Iterator[None]:
    """What transformers, its hub or safetensors raise here, is a ModelError with what to do."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # they raise whatever they like
        if "use_safetensors=True" in str(error):  # what transformers says of a Hub id with pickles alone
            raise pickled_weights(job, "no safetensors", "AutoModel") from error
        raise cannot_load(job, where, error) from error


def cannot_load(job: Job, where: str, error: BaseException) -> ModelError:
    """What a person can do about an error of transformers, its hub or safetensors."""
    from safetensors import SafetensorError

    source, folder = f"model.source={job.model.source!r}", Path(where)
    fault = find_fault(folder, gguf=job.model.gguf) if folder.is_dir() else None
    if fault is not None:
        return ModelError(f"{source}: {fault}")
    if not folder.exists():
        advice = (
            "Expected a folder, a package:NAME/PATH, or a Hugging Face id that this machine can reach; "
            "after an interrupted download, run the command again"
        )
    elif isinstance(error, SafetensorError):  # a file that ends too early
        advice = "Fetch the weights again, as after an interrupted download"
    elif job.model.gguf:
        advice = "Take a whole GGUF file, of a family that transformers reads"
    else:
        advice = "Take a config.json, tokenizer and weights in safetensors that belong together"
    return ModelError(f"{source} could not be loaded: {first_line(error)}. {advice}")


def cannot_read_tokenizer(job: Job, where: str, error: BaseException) -> ModelError:
    """The same of a tokenizer's error."""
    folder = Path(where)
    if not folder.is_dir():
        return cannot_load(job, where, error)
    fault = find_tokenizer_fault(folder)
    return ModelError(
        f"model.source={job.model.source!r}: "
        + (fault or f"its tokenizer could not be loaded: {first_line(error)}; copy the model's own there")
    )
