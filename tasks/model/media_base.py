"""A pretrained classifier of transformers' that reads no text: images, or sounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from privacy.canonical import canonical_json
from privacy.errors import ModelError
from protocol.job.job import Job
from protocol.processes.time_spent import Part, timed
from tasks.data.package_path import locate
from tasks.model.base_model import BaseModel
from tasks.model.checkpoint import check_whole, list_remarks, read_checkpoint
from tasks.model.classifier import Classifier
from tasks.model.device import Device
from tasks.model.model_digest import config_content, model_digest
from tasks.model.model_files import (
    be_quiet,
    check_place,
    loading_faults,
    loading_options,
    refuse_adapter,
    refuse_named_pickle,
    refuse_other_files,
)

PREPROCESSOR = "preprocessor_config.json"


class Reader(Protocol):
    """What a model's inputs are made of, which the model's digest holds."""

    def as_table(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class MediaClassifier(Classifier):
    """A model loaded to tell ``labels`` apart, by transformers' class for its family and medium.

    ``medium`` is ``IMAGE`` or ``AUDIO``; ``such_as`` names some that will do.
    """

    mean: bool = False
    medium: str
    such_as: str

    def choose(self, config: Any) -> Any:
        """The class to load. Raises ModelError if transformers has none for this medium."""
        import transformers

        known = getattr(transformers, f"MODEL_FOR_{self.medium}_CLASSIFICATION_MAPPING")
        found = known.get(type(config), None)
        kind = found[0] if isinstance(found, tuple) else found
        if kind is None:
            raise ModelError(
                f"transformers has no {self.medium.lower()} classifier for {config.model_type!r}: choose "
                f"another model, such as {self.such_as}"
            )
        return kind


@timed(Part.MODEL)
def load_media_classifier(
    job: Job,
    *,
    purpose: MediaClassifier,
    device: Device,
    check: Callable[[Any], None],
    read: Callable[[str, dict[str, Any]], Reader],
    attempt: Callable[[Any, Any], None],
) -> BaseModel:
    """Load, try, freeze and digest a classifier.

    What its checkpoint lacks is drawn from ``seeds.adapter``, and its head's last layer is zero, or as it
    was trained. ``check`` looks at the config, ``read`` makes a reader of what lies at a place, and
    ``attempt`` runs the model on what it makes. Raises ModelError with the key to change, as they do.
    """
    be_quiet()
    import transformers

    where = locate(job.model.source)
    with loading_faults(job, where):
        check_place(job, where)
        options = loading_options(where)
        refuse_adapter(job, found=(Path(where) / "adapter_config.json").exists())
        config = transformers.AutoConfig.from_pretrained(where, **options)
        told = config_content(config)
        kind = purpose.choose(config)
        check(config)
        refuse_other_files(job, Path(where), kind.__name__)
        refuse_named_pickle(job, config, kind.__name__)
        checkpoint = read_checkpoint(
            job, where, kind, config, labels=purpose.labels, device=device, options=options
        )
        reader = read(where, options)
        model = checkpoint.model
        attempt(model.eval(), reader)
        head = purpose.find_head(checkpoint)
        drawn = check_whole(checkpoint, head)
        purpose.begin(checkpoint, head)
        model.requires_grad_(False)
        return BaseModel(
            model=model,
            digest=model_digest(model, config=told, tokenizer=canonical_json(reader.as_table())),
            reader=reader,
            head=head,
            peft_type=None,
            limit=None,
            drawn=drawn,
            remarks=list_remarks(job, checkpoint, drawn=drawn, unused=(), head=head),
        )


def preprocessing(where: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """What a model's preprocessor_config.json holds; None without."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        table, _ = ImageProcessingMixin.get_image_processor_dict(where, **options)
    except OSError:  # no such file
        return None
    return dict(table)
