"""What tasks have in common that fit a Gaussian to usual examples, and tell how far from it others are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from protocol.job.adapter_section import no_adapter
from tasks.anomaly_outcome import ANOMALY, AnomalyOutcome
from tasks.labelled_keys import LabelledKeys
from tasks.measures import Measure
from tasks.network_task import NetworkReader, NetworkTask
from tasks.task import Encoded, TaskKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from tasks.data.dense_examples import DenseExamples
    from tasks.data.examples import Batch
    from tasks.data.rows import Rows
    from tasks.model.adapted_model import AdaptedModel
    from tasks.model.base_model import BaseModel


class FeatureKeys(TaskKeys):
    """How many directions an example is seen in: the fit has about half their square of numbers."""

    features: Annotated[int, Field(ge=2, le=64)] = 32


class AnomalyTask(NetworkTask):
    """A Gaussian over features that no data decided about. What is released are noisy sums of them.

    The first of the job's ``labels`` is the usual one. Examples of the others contribute nothing
    to the fit, and are what it is judged by.

    Guarantee: an example adds a matrix of norm 1 at most to a step's sum, before any clipping, and the
    step's mechanism adds its noise to that sum. Mean, covariance and alarms are made of the noisy sums
    alone.
    """

    measures: tuple[Measure, ...] = ANOMALY
    adds_up = "its held-out loss falls as sums grow, and each round's sum is in the next one's"

    def refuses(self, job: Job, section: LabelledKeys) -> str | None:
        """Sums stay sums only where all of a step's numbers are moved alike."""
        if section.labels is None:
            return (
                f'data.labels: expected the labels with task="{self.name}", of which the first is the '
                "usual one"
            )
        return super().refuses(job, section) or _refuses_steps(job, f'task="{self.name}"', self.adds_up)

    def fit(
        self,
        job: Job,
        reader: Any,
        *,
        labels: tuple[str, ...],
        parts: Sequence[int],
        features: int,
        scale: float,
    ) -> BaseModel:
        """The projection, drawn from ``seeds.adapter``, and sums that are zero."""
        from tasks.model.drawn_network import load_drawn
        from tasks.model.gaussian_network import GaussianNetwork

        base = load_drawn(
            lambda: GaussianNetwork(
                channels=reader.shape[0],
                labels=list(labels),
                parts=list(parts),
                features=features,
                scale=scale,
            ),
            seed=job.seeds.adapter,
            last="fit.sums",
            reads=reader.as_table(),
            reader=reader,
        )
        told = f"Features are drawn from seeds.adapter = {job.seeds.adapter}; sums over them are fitted."
        return replace(base, remarks=(told,))

    def encode(self, reader: NetworkReader, rows: Rows, *, labels: tuple[str, ...]) -> Encoded:
        """Each example by itself, and whether it is odd: it has another label than the first."""
        import numpy as np

        found = super().encode(reader, rows, labels=labels)
        examples: Any = found.examples
        numbers = np.zeros(len(rows), np.int64) if examples.labels is None else examples.labels
        arrays = {**examples.arrays, "odd": numbers > 0}
        return replace(found, examples=replace(examples, arrays=arrays, labels=None))

    def made_up(
        self, adapted: AdaptedModel, random: np.random.Generator, sizes: NDArray[np.int64]
    ) -> DenseExamples:
        """Any examples, none of them odd: those would have no gradient to compare."""
        import numpy as np

        found = super().made_up(adapted, random, sizes)
        return replace(found, arrays={**found.arrays, "odd": np.zeros(len(sizes), bool)}, labels=None)

    def forward(self, adapted: AdaptedModel, batch: Batch) -> AnomalyOutcome:
        """What the fit says of each example. In float32, as lengths are right to its last digits alone."""
        from tasks.model.fitted_trunk import size_of_fit

        values = batch.given("values", lambda found: self.scaled(found, adapted.base.reader))
        found = self.logits(adapted.peft, values)
        size = size_of_fit(adapted.peft.get_base_model())
        return AnomalyOutcome.of(found[:, 0], found[:, 1], batch.inputs["odd"], size=size)


def _refuses_steps(job: Job, named: str, adds_up: str) -> str | None:
    """Why a job's steps would make something else of sums than their mean, naming the key; or None."""
    training, privacy, strategy = job.training, job.privacy, job.strategy
    by_example = not privacy.hides_sites
    refused = {
        f"adapter: expected no such section with {named}, which fits sums and trains no layers": (
            job.adapter != no_adapter()
        ),
        f'model.head: expected "new" with {named}, whose sums begin at zero': job.model.head != "new",
        f"training.warm_start: expected none with {named}: other sums may be over other features": (
            training.warm_start is not None
        ),
        f'strategy: expected name="fedit" alone with {named}: a fit is the mean of the sites\' sums': (
            strategy.name != "fedit" or strategy.server is not None or strategy.keep_local != "nothing"
        ),
        f'training.optimizer: expected "sgd" with {named}, got "{training.optimizer}"': (
            training.optimizer != "sgd"
        ),
        f"training.patience: expected none with {named}: {adds_up}": training.patience is not None,
        f'training.average: expected "none" with {named}: {adds_up}': training.average != "none",
        f"training.proximal: expected 0 with {named}: sums are not pulled back": training.proximal > 0,
        f'compression.kind: expected "none" with {named}: a fit needs all of its numbers': (
            job.compression.kind != "none"
        ),
        f'privacy.mechanism: expected "gaussian" with {named}, whose sums are bounded in L2': (
            by_example and privacy.norm != 2
        ),
        f"privacy.clipping_quantile: expected none with {named}, whose norm is known": (
            privacy.clipping_quantile is not None
        ),
        f"privacy.clipping_norm: expected 1 at least with {named}, whose examples have norms up to 1: one "
        f"that is clipped is counted as less than it is; got {privacy.clipping_norm:g}": (
            by_example and privacy.clipping_norm < 1.0
        ),
    }
    return next((why for why, so in refused.items() if so), None)
