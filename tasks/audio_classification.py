"""Sounds: which of a few labels each has; a folder a label, or a table with a path and a label a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from protocol.job.job import DRAWN
from tasks.data.sound_files import SOUNDS, SoundShape
from tasks.equal_error import EQUAL_ERROR
from tasks.label_outcome import CLASSIFIER
from tasks.labelled_files import LabelledFileKeys, LabelledFilesTask
from tasks.labelled_keys import DeclaredLabels
from tasks.model.speaker_folder import is_speaker_encoder
from tasks.task import Units

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_WIDTH = 16  # of the network: filters
_MOST_SAMPLES = 480_000  # half a minute at 16,000 a second


class SoundSection(LabelledFileKeys):
    """A job's keys: of every sound the first ``seconds`` are heard, at ``rate`` samples a second."""

    seconds: Annotated[float, Field(ge=0.25, le=60)]
    rate: Annotated[int, Field(ge=8_000, le=48_000)] = 16_000

    @model_validator(mode="after")
    def _small_enough(self) -> Self:
        if self.seconds * self.rate > _MOST_SAMPLES:
            raise ValueError(
                f"seconds: expected at most {_MOST_SAMPLES:,} samples: fewer seconds, or a lower rate"
            )
        return self

    @property
    def reader(self) -> SoundShape:
        """What sounds become."""
        return SoundShape(rate=self.rate, seconds=self.seconds)


class SoundColumns(LabelledFileKeys, DeclaredLabels):
    """A site's keys: sounds with labels."""


class AudioClassification(LabelledFilesTask):
    """Sounds, for a model of transformers' under LoRA, a frozen encoder of voices, or a drawn network."""

    name = "audio-classification"
    pipeline = "audio-classification"
    about = "which of a few labels a sound has"
    units = Units(example="sound", size="sounds")
    kind = SOUNDS
    measures = (CLASSIFIER[0], EQUAL_ERROR, *CLASSIFIER[1:])
    Section: type[SoundSection] = SoundSection
    Columns: type[LabelledFileKeys] = SoundColumns

    def made_up_values(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
        """Noise, as loud as any."""
        return random.integers(-32768, 32768, shape, "int16")

    def scaled(self, values: torch.Tensor, reader: SoundShape) -> torch.Tensor:
        """Samples of 16 bits from -1 to 1, or standardized; or their spectrum, where a model hears that."""
        from tasks.model.log_mel import log_mel

        sound = values.float() / 32768
        if reader.spectrum is not None:
            return log_mel(sound[:, 0], reader.spectrum, rate=reader.rate)
        if not reader.standardized:
            return sound
        spread = sound.var(-1, keepdim=True, correction=0)
        return (sound - sound.mean(-1, keepdim=True)) / (spread + 1e-7).sqrt()  # as transformers does

    def logits(self, model: Any, values: torch.Tensor) -> torch.Tensor:
        """The network is given a channel; a model of transformers' its samples, or a spectrum's bands."""
        channel = hasattr(model, "made_of") or values.shape[1] != 1
        found = model(values if channel else values[:, 0])
        logits: torch.Tensor = getattr(found, "logits", found)  # where features are kept, also a network's
        return logits

    def load(
        self,
        job: Job,
        section: SoundSection,
        *,
        labels: tuple[str, ...],
        device: Device,
    ) -> BaseModel:
        """A model as it was trained before, with a head for the labels; or the network, drawn."""
        from tasks.model.drawn_network import load_drawn
        from tasks.model.sound_base import load_sound_classifier
        from tasks.model.sound_network import SoundNetwork
        from tasks.model.speaker_base import load_speaker_encoder

        reader = section.reader
        if job.model.source != DRAWN:
            if is_speaker_encoder(job.model.source):
                return load_speaker_encoder(job, labels=labels, shape=reader)
            return load_sound_classifier(job, labels=labels, device=device, shape=reader)
        return load_drawn(
            lambda: SoundNetwork(rate=reader.rate, labels=list(labels), width=_WIDTH),
            seed=job.seeds.adapter,
            last="classifier",
            reads=reader.as_table(),
            reader=reader,
        )

    def has_program(self, source: str) -> bool:
        """An encoder of voices, which no library loads."""
        return is_speaker_encoder(source)

    def open_reader(self, source: str, columns: LabelledFileKeys) -> SoundShape:  # noqa: ARG002
        """Sounds as short as any: no model says more."""
        return SoundShape(rate=8_000, seconds=0.25)

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """A network as all tasks' own; another model for transformers' ``from_pretrained``."""
        from tasks.model.sound_base import save_sound_classifier

        if hasattr(merged, "made_of"):
            super().export(merged, base, folder)
        else:
            save_sound_classifier(merged, folder, base.reader)


TASK = AudioClassification()
