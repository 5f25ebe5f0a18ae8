"""The job: what a coordinator asks for, as people write it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, Tag, WithJsonSchema, model_validator

from privacy.errors import JobError
from protocol.job.adapter_section import AdapterSection, no_adapter
from protocol.job.aggregation import AggregationSection, MasksSection
from protocol.job.data_section import DataSection
from protocol.job.draw import cohort_size
from protocol.job.mix import check_mix
from protocol.job.privacy import PrivacySection
from protocol.job.section import COHORT_MAX, SITES_MAX, Section, by_shape
from protocol.job.strategy import Strategy, default_strategy
from protocol.plain_text import Place, Word, quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What the numbers of a job may be: further than a real run goes, and no more than a site can bear that is
# asked by a stranger. A plan at these ends takes up to 5 seconds and 150 MiB: privacy.accounting bounds
# what it composes, whatever the numbers are. Over a million steps floats may add about the least δ to δ.
ROUNDS_MAX, LOCAL_STEPS_MAX, TOTAL_STEPS_MAX = 100_000, 100_000, 1_000_000
# A batch is expected to be no larger than a site's data. What is computed at once holds a gradient of each.
BATCH_MAX, PHYSICAL_BATCH_MAX = 10_000_000, 65_536
WEIGHT_MAX = 1_000_000_000
# What NumPy, torch and TOML take as one number.
SEED_MAX = 2**63 - 1
# In place of a pretrained model: a network of the task's own, whose start is drawn from ``seeds.adapter``.
DRAWN = "drawn"


class ModelSection(Section):
    """The base model: frozen if it was trained before, trained whole if it is drawn."""

    source: Place = Field(
        description='Hugging Face id, folder, or package:NAME/PATH; "drawn": a network of the task'
    )
    gguf: Word | None = Field(None, description="file name of GGUF weights inside the source")
    pooling: Literal["mean", "model"] = Field(
        "model", description="mean: classify the mean of the tokens; model: as the model does it"
    )
    head: Literal["new", "checkpoint"] = Field(
        "new", description="new: a classifier's last layer starts at zero; checkpoint: as it was trained"
    )
    quantization: Literal["nf4", "int8"] | None = Field(
        None, description="nf4: linear layers in four bits; int8: in eight; float32 without it"
    )
    padding: Word | None = Field(
        None, description="the token that fills texts up, where tokenizer and config name none"
    )
    checkpointing: bool = Field(
        False, description="compute layers again on the way back, in place of keeping what they made"
    )


class Dirichlet(Section):
    """Labels are dealt to the sites by Dirichlet(α); small α makes sites differ."""

    dirichlet: Annotated[float, Field(ge=1e-6, le=1e6)]


class ByColumn(Section):
    """Each value of a column is a site."""

    column: Word


def _kind_of_partition(value: Any) -> str | None:
    if isinstance(value, Dirichlet | ByColumn):
        return type(value).__name__
    if isinstance(value, dict):
        return {("dirichlet",): "Dirichlet", ("column",): "ByColumn"}.get(tuple(value))
    return "str" if value == "iid" else None


def _kind_of_number(value: Any) -> str | None:
    if isinstance(value, float):
        return "float" if value < 1 else None
    return "int" if isinstance(value, int) and not isinstance(value, bool) else None


_Partition = Annotated[
    Annotated[Literal["iid"], Tag("str")]
    | Annotated[Dirichlet, Tag("Dirichlet")]
    | Annotated[ByColumn, Tag("ByColumn")],
    by_shape(_kind_of_partition, 'expected "iid", { dirichlet = 0.5 } or { column = "NAME" }'),
]
_Cohort = Annotated[
    Annotated[int, Field(ge=1, le=COHORT_MAX), Tag("int")]
    | Annotated[float, Field(gt=0, lt=1), Tag("float")],
    by_shape(_kind_of_number, "expected a number of sites, or a share of them as 0.2"),
]


class FederationSection(Section):
    """The sites that a simulation makes, and how many of a real run's must answer how soon."""

    sites: Annotated[int, Field(ge=1, le=SITES_MAX)] = 4
    partition: _Partition = "iid"
    # So many of the sites are drawn for a round, or such a share of them; unset: all.
    cohort: _Cohort | None = None
    # A round counts with so many sites' updates; unset: all that are drawn.
    min_sites: Annotated[int, Field(ge=1, le=COHORT_MAX)] | None = None
    # By site, how much its update counts in the mean, as examples: public numbers. Unset: all the same.
    weights: (
        Annotated[
            dict[Word, Annotated[int, Field(ge=1, le=WEIGHT_MAX)]],
            Field(min_length=1, max_length=SITES_MAX),
        ]
        | None
    ) = None
    # Seconds after which a round of a real run closes with those that answered.
    deadline: Annotated[float, Field(ge=10, le=7 * 86400)] = 3600.0


class TrainingSection(Section):
    """What each site does in a round."""

    rounds: Annotated[int, Field(ge=1, le=ROUNDS_MAX)] = 10
    local_steps: Annotated[int, Field(ge=1, le=LOCAL_STEPS_MAX)] = 1
    batch_size: Annotated[
        int, Field(ge=1, le=BATCH_MAX, description="expected size of a Poisson batch")
    ] = 256
    physical_batch_size: Annotated[int, Field(ge=1, le=PHYSICAL_BATCH_MAX)] = 64
    optimizer: Literal["sgd", "adam"] = "sgd"
    # Up to where float32 ends.
    learning_rate: Annotated[float, Field(ge=1e-12, le=1e38)] = 1.0
    decay: Literal["none", "linear"] = "none"
    # The L2 norm that each site scales its whole update down to; unset: any.
    update_norm: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    # The run stops after so many rounds without a lower held-out loss; unset: after all.
    patience: Annotated[int, Field(ge=1, le=ROUNDS_MAX)] | None = None
    # FedProx' μ: how hard each step is pulled back to where its round began.
    proximal: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    # Steps that each site takes from the last adapter, for an adapter of its own that stays there.
    personal_steps: Annotated[int, Field(ge=0, le=LOCAL_STEPS_MAX)] = 0

    @model_validator(mode="after")
    def _pull(self) -> TrainingSection:
        if self.optimizer == "sgd" and self.learning_rate * self.proximal > 1.0:
            raise ValueError(
                "proximal: expected learning_rate · proximal <= 1, or a step goes past where its round "
                f"began, got learning_rate={self.learning_rate:g}, proximal={self.proximal:g}"
            )
        return self

    @model_validator(mode="after")
    def _steps(self) -> TrainingSection:
        if self.total_steps + self.personal_steps > TOTAL_STEPS_MAX:
            raise ValueError(
                f"expected rounds · local_steps + personal_steps <= {TOTAL_STEPS_MAX}, got "
                f"rounds={self.rounds}, local_steps={self.local_steps}, "
                f"personal_steps={self.personal_steps}"
            )
        return self

    def step_weights(self, steps: int) -> NDArray[np.float64]:
        """What each of a site's ``steps`` counts in the last adapter, over what the first one does.

        They are its learning rates, exactly so if the site is in each round: float64[steps].
        """
        import numpy as np

        return np.linspace(1.0, 0.0 if self.decay == "linear" else 1.0, steps, endpoint=False)

    @property
    def total_steps(self) -> int:
        """Local steps that each site takes over the whole run."""
        return self.rounds * self.local_steps


class MetricsSection(Section):
    """Accuracy on the sites' own examples after the last round, under Laplace noise of its own ε."""

    epsilon: Annotated[float, Field(ge=0, le=100, description="0: no metrics leave a site")] = 0.0

    @model_validator(mode="after")
    def _enough(self) -> MetricsSection:
        if 0 < self.epsilon < 1e-6:
            raise ValueError(f"epsilon: expected 0, or 1e-06 at least, got {self.epsilon}")
        return self


class CompressionSection(Section):
    """Sending fewer numbers; what is not sent waits at the site."""

    kind: Literal["none", "random", "top-k"] = "none"
    share: Annotated[float, Field(ge=1e-6, le=1)] = 0.1

    @model_validator(mode="after")
    def _share_of_something(self) -> CompressionSection:
        # A manifest has every key: the default is no wish.
        if self.kind == "none" and self.share != type(self).model_fields["share"].default:
            raise ValueError(
                f'share: expected kind="random" or "top-k" beside it, or all numbers are sent, got '
                f'kind="none" and share={self.share:g}'
            )
        return self


class SeedsSection(Section):
    """What is fixed. ``noise`` makes a simulation reproducible and therefore not private."""

    adapter: Annotated[int, Field(ge=0, le=SEED_MAX)] = 0
    data: Annotated[int, Field(ge=0, le=SEED_MAX)] = 0
    cohort: Annotated[int, Field(ge=0, le=SEED_MAX)] = 0
    noise: Annotated[int, Field(ge=0, le=SEED_MAX)] | None = None


def _check_device(value: str) -> str:
    if not re.fullmatch(_DEVICES, value):
        raise ValueError(
            'expected "auto", "cpu", "cuda", "mps", or a GPU by its number from 0, as "cuda:1", got '
            f"{quoted(value)}"
        )
    return value


_DEVICES = r"auto|cpu|cuda(:(0|[1-9][0-9]?))?|mps"
_DeviceName = Annotated[
    str, AfterValidator(_check_device), WithJsonSchema({"type": "string", "maxLength": 7})
]


class DeviceSection(Section):
    """Where tensors live and in which precision the frozen layers compute."""

    name: _DeviceName = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class Job(Section):
    """A job, whole. Every section but two has a default."""

    name: str = Field("confide", min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: Word = Field("sequence-classification", description="one of those that `confide tasks` lists")
    model: ModelSection
    adapter: AdapterSection = Field(default_factory=no_adapter)
    data: DataSection
    federation: FederationSection = FederationSection()
    training: TrainingSection = TrainingSection()
    privacy: PrivacySection = PrivacySection()
    metrics: MetricsSection = MetricsSection()
    aggregation: AggregationSection = MasksSection()
    compression: CompressionSection = CompressionSection()
    strategy: SerializeAsAny[Strategy] = Field(default_factory=default_strategy)
    seeds: SeedsSection = SeedsSection()
    device: DeviceSection = DeviceSection()

    @model_validator(mode="after")
    def _combinations(self) -> Job:
        self.strategy.allows(self)
        if self.data.mix:
            check_mix(self)
        self.privacy.check(self)
        self.aggregation.check(self)
        if self.training.update_norm is not None:
            self._check_update_norm()
        if self.training.patience is not None and self.metrics.epsilon > 0:
            raise ValueError(
                "training.patience: expected none with metrics.epsilon > 0: the sites tell of their own "
                "examples after the last round that the job plans, which such a run may not reach"
            )
        if self.training.personal_steps:
            self._check_personal()
        if self.training.physical_batch_size > self.training.batch_size:
            raise ValueError(
                "training.physical_batch_size: expected at most training.batch_size="
                f"{self.training.batch_size}, got {self.training.physical_batch_size}"
            )
        return self

    def _check_personal(self) -> None:
        if not self.metrics.epsilon:
            raise ValueError(
                "training.personal_steps: expected 0 with metrics.epsilon=0: the last adapter reaches the "
                "sites with the request for metrics"
            )
        if self.adapter.ranks is not None:
            raise ValueError(
                "training.personal_steps: expected 0 with adapter.ranks, which has one rank each"
            )

    def _check_update_norm(self) -> None:
        if self.privacy.hides_sites:
            raise ValueError(
                'training.update_norm: expected none with privacy.unit="site", where privacy.clipping_norm '
                "bounds each site's whole update"
            )
        if self.compression.kind != "none":
            raise ValueError(
                "training.update_norm: expected none with compression.kind="
                f'"{self.compression.kind}": what waits at a site would be added to a bounded update'
            )

    @property
    def masks(self) -> MasksSection:
        """The keys of sums under masks. Raises JobError for a job that sums otherwise."""
        if not isinstance(self.aggregation, MasksSection):
            raise JobError(f'expected aggregation.kind="masks", got "{self.aggregation.kind}"')
        return self.aggregation

    @property
    def steps_a_round(self) -> int:
        """The releases of a round, as its plan counts them: local steps, or one sum of whole sites."""
        return 1 if self.privacy.hides_sites else self.training.local_steps

    def planned_steps(self, rounds: int) -> int:
        """The releases that a plan is for, of a site that is in so many rounds."""
        return rounds * self.steps_a_round + self.training.personal_steps

    def most_rounds(self, *, sites: int) -> int:
        """How many rounds a run of so many sites has those in that are drawn most often."""
        drawn = self.training.rounds * cohort_size(self.federation.cohort, sites=sites)
        return -(-drawn // sites)
