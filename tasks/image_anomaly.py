"""Images: which are unlike the usual ones, such as parts with a fault."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from protocol.job.job import DRAWN
from tasks.anomaly_task import AnomalyTask, FeatureKeys
from tasks.image_classification import ImageClassification, ImageSection
from tasks.pixels import trunk_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.job.job import Job
    from tasks.model.base_model import BaseModel
    from tasks.model.device import Device

_PARTS = 7  # of each side
_SCALE = 0.25  # of the length that a white image has


class UsualImageSection(FeatureKeys, ImageSection):
    """A job's keys: an image is seen in ``features`` directions."""


class ImageAnomaly(AnomalyTask, ImageClassification):
    """Images against a Gaussian of usual ones: by a frozen model's features, or brightness."""

    name = "image-anomaly"
    about = "how unlike the usual ones an image is"
    Section: type[UsualImageSection] = UsualImageSection

    def load(  # type: ignore[override]  # its section has more keys
        self,
        job: Job,
        section: UsualImageSection,
        *,
        labels: tuple[str, ...],
        device: Device,
    ) -> BaseModel:
        """A trunk as it was trained before, or brightness; and sums over a projection drawn from a seed."""
        from tasks.model.fitted_trunk import fit_on_trunk
        from tasks.model.image_base import load_image_classifier

        if job.model.source != DRAWN:
            trunk = load_image_classifier(job, labels=labels, device=device, shape=section.reader)
            return fit_on_trunk(trunk, seed=job.seeds.adapter, labels=labels, features=section.features)
        # Black is 0 and white is 1.
        reader = replace(section.reader, mean=(0.0,), deviation=(1.0,))
        scale = _SCALE * (reader.shape[0] * _PARTS * _PARTS) ** 0.5
        return self.fit(
            job, reader, labels=labels, parts=[_PARTS] * 2, features=section.features, scale=scale
        )

    def export(self, merged: Any, base: BaseModel, folder: Path) -> None:
        """As all networks of a task's own, with the pixels' own scale; a trunk lies beside it."""
        from tasks.model.fitted_trunk import write_fitted
        from tasks.model.image_base import save_image_classifier
        from tasks.model.network_folder import write_network

        if not hasattr(merged, "made_of"):
            told = f"the numbers that the head of trunk/ reads, of {trunk_inputs(base.reader)}"
            trunk = write_fitted(merged, folder, head=base.head[0], inputs=[told])
            save_image_classifier(merged, trunk, base.reader)
            return
        inputs = [told.replace("as -1 to 1", "as 0 to 1") for told in base.reader.inputs]
        write_network(merged, folder, inputs=inputs)


TASK = ImageAnomaly()
