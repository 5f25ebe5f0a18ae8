"""A public classifier that says how good a text is, frozen, beside the model that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import ModelError
from protocol.job.job import Job, ModelSection
from protocol.plain_text import quoted, quoted_some
from tasks.data.package_path import locate
from tasks.model.checkpoint import read_checkpoint
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
from tasks.model.model_limits import longest_text, shortest_text


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A classifier of texts, of up to ``limit`` tokens if that is set.

    A text's score is the probability of the label at ``place``; of a model with one output, whose place is
    None, it is that output. ``digest`` is SHA-256 (hex) of all that decides a score.
    """

    model: Any
    tokenizer: Any
    digest: str
    place: int | None
    padding: int
    limit: int | None

    @torch.no_grad()
    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The scores of texts, float32[n], in one batch; a longer text is judged by its beginning."""
        rows = [self._tokens(text) for text in texts]
        width = max(map(len, rows))
        tokens, mask = (torch.full((len(rows), width), fill) for fill in (self.padding, 0))
        for number, row in enumerate(rows):
            tokens[number, : len(row)], mask[number, : len(row)] = torch.tensor(row), 1
        device = next(self.model.parameters()).device
        logits = self.model(input_ids=tokens.to(device), attention_mask=mask.to(device)).logits.float()
        found = logits[:, 0] if self.place is None else logits.softmax(1)[:, self.place]
        scores: NDArray[np.float32] = found.cpu().numpy()
        return scores

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, return_attention_mask=False)["input_ids"]
        return found[: self.limit] or [self.padding]


def load_judge(job: Job, *, source: str, label: str | None, key: str, device: Device) -> Judge:
    """Load the classifier that the job names under ``key``, whose score is that of ``label``.

    Raises ModelError where there is none, where its weights lack anything, or where it knows no such label.
    """
    # What loads a model speaks of the job's own.
    named = job.model_copy(update={"model": ModelSection.model_validate({"source": source})})
    try:
        return _load(named, label, key=key, device=device)
    except ModelError as error:
        raise ModelError(str(error).replace("model.source", f"{key}.source")) from error


def _load(job: Job, label: str | None, *, key: str, device: Device) -> Judge:
    import transformers

    be_quiet()
    where = locate(job.model.source)
    auto, options = transformers.AutoModelForSequenceClassification, loading_options(where)
    with loading_faults(job, where):
        check_place(job, where)
        config = transformers.AutoConfig.from_pretrained(where, **options)
        told = config_content(config)
        refuse_other_files(job, Path(where), auto.__name__)
        refuse_named_pickle(job, config, auto.__name__)
        refuse_adapter(job, found=(Path(where) / "adapter_config.json").exists())
        checkpoint = read_checkpoint(job, where, auto, config, labels=(), device=device, options=options)
        if checkpoint.lacking:
            raise ModelError(
                f"model.source={job.model.source!r}: the weights lack {checkpoint.lacking[0]}: expected a "
                f"classifier, got {', '.join(checkpoint.saved_as) or 'another class'}"
            )
        place = _place_of(label, checkpoint.labels, key=key)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        except Exception as error:  # transformers, tokenizers and sentencepiece raise whatever they like
            raise cannot_read_tokenizer(job, where, error) from error
        model = checkpoint.model.requires_grad_(False).eval()
        limit = longest_text(model, shortest=shortest_text(model))
        digest = model_digest(model, config=told, tokenizer=tokenizer_content(tokenizer))
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if model.config.pad_token_id is None:
            model.config.pad_token_id = padding  # after the digest; decoders find a text's end by it
        judge = Judge(
            model=model.to(device.torch),
            tokenizer=tokenizer,
            digest=digest,
            place=place,
            padding=padding or 0,
            limit=limit,
        )
        if not np.isfinite(judge.scores(["a", ""])).all():
            raise ModelError(f"model.source={job.model.source!r}: its scores are not finite")
        return judge


def _place_of(label: str | None, labels: Sequence[str], *, key: str) -> int | None:
    if label is None and len(labels) == 1:
        return None
    if label is None or label not in labels:
        got = "none" if label is None else quoted(label)
        raise ModelError(f"{key}.label: expected one of {quoted_some(tuple(labels))}, got {got}")
    return tuple(labels).index(label)
