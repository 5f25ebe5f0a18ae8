"""Images: which are unlike the usual ones, such as parts with a fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.anomaly_task import AnomalyTask, FeatureKeys
from tasks.data.image_files import ImageShape
from tasks.image_classification import ImageClassification, ImageSection

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.job.job import Job
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_PARTS = 7  # of each side
_SCALE = 0.25  # of the length that a white image has


class UsualImageSection(FeatureKeys, ImageSection):
    """A job's keys: an image is seen in ``features`` directions; black is 0 and white is 1."""

    @property
    def reader(self) -> ImageShape:
        """What images become."""
        return ImageShape(size=self.size, colours=self.colours, mean=(0.0,), deviation=(1.0,))


class ImageAnomaly(AnomalyTask, ImageClassification):
    """Images against a Gaussian of usual ones, by how bright they are where."""

    name = "image-anomaly"
    about = "how unlike the usual ones an image is"
    pretrained = False
    Section: type[UsualImageSection] = UsualImageSection

    def load(  # type: ignore[override]  # its section has more keys
        self,
        job: Job,
        section: UsualImageSection,
        *,
        labels: tuple[str, ...],
        device: Device,  # noqa: ARG002
    ) -> BaseModel:
        """The projection, drawn from ``seeds.adapter``."""
        reader = section.reader
        scale = _SCALE * (reader.shape[0] * _PARTS * _PARTS) ** 0.5
        return self.fit(
            job, reader, labels=labels, parts=[_PARTS] * 2, features=section.features, scale=scale
        )

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """As all networks of a task's own, with the pixels' own scale."""
        from tasks.model.network_folder import write_network

        inputs = [told.replace("as -1 to 1", "as 0 to 1") for told in base.reader.inputs]
        write_network(merged, folder, inputs=inputs)


TASK = ImageAnomaly()
