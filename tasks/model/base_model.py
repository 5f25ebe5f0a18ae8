"""The base model: loaded without code of its own, made whole, frozen and known by its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from privacy.errors import ModelError
from protocol.job.job import Job
from protocol.plain_text import first_line
from protocol.processes.time_spent import Part, timed
from tasks.data.package_path import locate
from tasks.model.checkpoint import Checkpoint, check_whole, list_remarks, read_checkpoint
from tasks.model.device import Device
from tasks.model.model_digest import config_content, model_digest, tokenizer_content
from tasks.model.model_files import (
    be_quiet,
    cannot_read_tokenizer,
    check_place,
    loading_faults,
    loading_options,
    refuse_adapter,
    refuse_named_pickle,
    refuse_other_files,
)
from tasks.model.model_limits import check_tokenizer, count_tokens, longest_text, shortest_text
from tasks.model.padding import choose_padding, set_padding
from tasks.model.quantization import quantize
from tasks.model.trial import try_model
from tasks.model.unused_layers import find_unused
from tasks.registry import find_task, section_of


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model before it has an adapter.

    ``digest`` is SHA-256 (hex) of all that decides what comes out. ``reader`` is what its task makes
    examples of rows with. ``head`` names the layers that are trained whole, beside the adapter, and
    ``peft_type`` the task as PEFT calls it, where that says more than ``head``. An example may be as large
    as ``limit``, None if the model sets none. ``drawn`` names the layers that the checkpoint lacks, which
    were drawn from a seed: they stay as they are and carry no adapter. ``unused`` names those that
    ``all-linear`` leaves out, as nothing uses them. ``remarks`` are sentences for whoever reads about the
    run. ``beside`` is what else its task has loaded. ``files`` has the content of each file that the job
    names in ``[data]`` and that was read for the model, by its key.
    """

    model: nn.Module
    digest: str
    reader: Any
    head: tuple[str, ...]
    peft_type: str | None
    limit: int | None
    drawn: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    beside: Any = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def trained_whole(self) -> bool:
        """Whether all of it is in its head, so that nothing is left to carry an adapter."""
        heads = tuple(f"{name}." for name in self.head)
        return all(name.startswith(heads) for name, _ in self.model.named_parameters())

    def may_adapt(self, layer: str) -> bool:
        """Whether a layer may carry an adapter: it is used, in no head, and was not drawn."""
        in_head = layer.split(".", maxsplit=1)[0] in {name.split(".")[0] for name in self.head}
        return not in_head and layer not in self.drawn and layer not in self.unused


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What transformers loads: frozen weights, a tokenizer, and the digest of both with the config.

    The model takes texts of ``shortest`` tokens up to ``limit``, of ``tokens`` different ones, filled up
    with ``padding``.
    """

    model: nn.Module
    tokenizer: Any
    digest: str
    head: tuple[str, ...]
    padding: int
    tokens: int
    shortest: int
    limit: int | None
    drawn: tuple[str, ...]
    unused: tuple[str, ...]
    remarks: tuple[str, ...]


class Purpose(Protocol):
    """What a task loads a model for."""

    def choose(self, config: Any) -> Any:
        """The class to load a model of this config as. Raises ModelError if none will do."""

    def find_head(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """The layers that are trained whole. Raises ModelError if the checkpoint lacks what it needs."""

    def begin(self, checkpoint: Checkpoint, head: tuple[str, ...]) -> None:
        """Set the head to what training starts from."""


@timed(Part.MODEL)
def load_base_model(job: Job, *, labels: tuple[str, ...], device: Device) -> BaseModel:
    """Load, freeze and digest the base model that the job names, as its task wants it.

    Raises ModelError with the key to change.
    """
    return find_task(job.task).load(job, section_of(job), labels=labels, device=device)


def load_pretrained(
    job: Job,
    *,
    purpose: Purpose,
    labels: tuple[str, ...],
    device: Device,
) -> Pretrained:
    """Load a model for a purpose, make it whole, try it and freeze it.

    What its checkpoint lacks is drawn from ``seeds.adapter``. Raises ModelError.
    """
    be_quiet()
    where = locate(job.model.source)
    with loading_faults(job, where):
        check_place(job, where)
        return _load(job, where, purpose=purpose, labels=labels, device=device)


def load_tokenizer(source: str) -> tuple[Any, int]:
    """The tokenizer of a folder, package or Hub id, and how many tokens its config says that it knows.

    Raises ModelError where a tokenizer cannot be had by itself, as from GGUF files.
    """
    be_quiet()
    import transformers

    where = locate(source)
    try:
        config = transformers.AutoConfig.from_pretrained(where, **loading_options(where))
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **loading_options(where))
        return tokenizer, int(config.get_text_config().vocab_size)
    except Exception as error:  # transformers and its hub raise whatever they like
        raise ModelError(f"{source!r}: no tokenizer by itself: {first_line(error)}") from error


def _load(
    job: Job,
    where: str,
    *,
    purpose: Purpose,
    labels: tuple[str, ...],
    device: Device,
) -> Pretrained:
    import transformers

    options = loading_options(where) | ({"gguf_file": job.model.gguf} if job.model.gguf else {})
    refuse_adapter(job, found=(Path(where) / "adapter_config.json").exists())
    config = transformers.AutoConfig.from_pretrained(where, **options)
    told = config_content(config)
    kind = purpose.choose(config)
    refuse_other_files(job, Path(where), kind.__name__)
    refuse_named_pickle(job, config, kind.__name__)
    checkpoint = read_checkpoint(job, where, kind, config, labels=labels, device=device, options=options)
    model = checkpoint.model
    tokenizer = _read_tokenizer(job, where, options)
    content = tokenizer_content(tokenizer)
    tokens = count_tokens(model)
    check_tokenizer(tokenizer, tokens=tokens)
    head = purpose.find_head(checkpoint)
    drawn = check_whole(checkpoint, head)
    quantize(job, model, keep=head)
    padding = choose_padding(tokenizer, model, asked=job.model.padding, tokens=tokens)
    set_padding(tokenizer, model, padding)
    # Before it moves: a lookup out of range would leave an accelerator unusable.
    shortest = shortest_text(model)
    limit = longest_text(model, shortest=shortest)
    # Before its head may be zero, which would hide what is under it.
    try_model(model, padding=padding, tokens=tokens, limit=limit)
    everywhere = job.adapter.target_modules == ["all-linear"]
    unused = find_unused(model, padding=padding, tokens=tokens, limit=limit) if everywhere else ()
    purpose.begin(checkpoint, head)
    model.requires_grad_(False)
    model.config.use_cache = False  # nothing is generated here
    digest = model_digest(model, config=told, tokenizer=content)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = padding  # after the digest: a job may choose it
    return Pretrained(
        model=model,
        tokenizer=tokenizer,
        digest=digest,
        head=head,
        padding=padding,
        tokens=tokens,
        shortest=shortest,
        limit=limit,
        drawn=drawn,
        unused=unused,
        remarks=list_remarks(job, checkpoint, drawn=drawn, unused=unused, head=head),
    )


def _read_tokenizer(job: Job, where: str, options: Mapping[str, Any]) -> Any:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        tokenizer("a")  # some that were put together wrongly fail only then
        return tokenizer
    except Exception as error:  # transformers, tokenizers and sentencepiece raise whatever they like
        raise cannot_read_tokenizer(job, where, error) from error
