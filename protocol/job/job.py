"""The job: what a coordinator asks for, as people write it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, Tag, WithJsonSchema, model_validator

from privacy.errors import JobError
from protocol.job.adapter_section import AdapterSection, no_adapter
from protocol.job.aggregation import AggregationSection, MasksSection
from protocol.job.data_section import DataSection
from protocol.job.draw import cohort_size
from protocol.job.first_and_last import check_average, check_features, check_shrink, check_warm_start
from protocol.job.mix import check_mix
from protocol.job.phases import PHASES_MAX, Phase, PhaseSection, check_phases, make_phases, phase_in, uneven
from protocol.job.privacy import PrivacySection
from protocol.job.section import COHORT_MAX, SITES_MAX, Section, by_shape
from protocol.job.statistics_section import StatisticsSection, check_statistics
from protocol.job.strategy import Strategy, default_strategy
from protocol.job.tensor_rates import check_rates_fit
from protocol.job.trained_rounds import TrainedRounds
from protocol.job.training_section import TrainingSection
from protocol.plain_text import Place, Word, quoted

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
    features: Place | None = Field(
        None,
        description="public texts, one a line, or a folder of public files: a head's features are centred "
        "and scaled by them",
    )
    checkpointing: bool = Field(
        False, description="compute layers again on the way back, in place of keeping what they made"
    )


class Dirichlet(Section):
    """Labels are dealt to the sites by Dirichlet(α); small α makes sites differ.

    Each label is shared out among the sites, which come out large and small; with ``equal_sizes`` each site
    has its own shares of the labels, and all have as many examples.
    """

    dirichlet: Annotated[float, Field(ge=1e-6, le=1e6)]
    equal_sizes: bool = False


class ByColumn(Section):
    """Each value of a column is a site."""

    column: Word


def _kind_of_partition(value: Any) -> str | None:
    if isinstance(value, Dirichlet | ByColumn):
        return type(value).__name__
    if isinstance(value, dict):
        return "Dirichlet" if "dirichlet" in value else "ByColumn" if "column" in value else None
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
DeviceName = Annotated[
    str, AfterValidator(_check_device), WithJsonSchema({"type": "string", "maxLength": 7})
]


class DeviceSection(Section):
    """Where tensors live and in which precision the frozen layers compute."""

    name: DeviceName = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    offload: Annotated[
        bool, Field(description="frozen layers' weights wait in main memory while another layer computes")
    ] = False


class Job(Section):
    """A job, whole. Every section but two has a default."""

    name: str = Field("confide", min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: Word = Field("sequence-classification", description="one of those that `confide tasks` lists")
    model: ModelSection
    adapter: AdapterSection = Field(default_factory=no_adapter)
    data: DataSection
    federation: FederationSection = FederationSection()
    training: TrainingSection = TrainingSection()
    # Parts of the run one after another; without any, all rounds are as [training] says.
    phase: Annotated[list[PhaseSection], Field(max_length=PHASES_MAX)] = Field(default_factory=list)
    privacy: PrivacySection = PrivacySection()
    metrics: MetricsSection = MetricsSection()
    # What is counted before the job, which `confide stats` asks for; a training has none of it.
    statistics: StatisticsSection | None = None
    aggregation: AggregationSection = MasksSection()
    compression: CompressionSection = CompressionSection()
    strategy: SerializeAsAny[Strategy] = Field(default_factory=default_strategy)
    seeds: SeedsSection = SeedsSection()
    device: DeviceSection = DeviceSection()

    @model_validator(mode="before")
    @classmethod
    def _rounds_of_phases(cls, value: Any) -> Any:
        """A job with phases has as many rounds as these, whether it says so or not."""
        if not isinstance(value, dict) or not isinstance(value.get("phase"), list):
            return value
        rounds: list[Any] = [one.get("rounds") for one in value["phase"] if isinstance(one, dict)]
        training = value.get("training", {})
        known = rounds and all(type(one) is int for one in rounds)
        if not known or not isinstance(training, dict) or "rounds" in training:
            return value
        return value | {"training": training | {"rounds": sum(rounds)}}

    @model_validator(mode="after")
    def _combinations(self) -> Job:
        check_phases(self)
        self.strategy.allows(self)
        if self.data.mix:
            check_mix(self)
        self.privacy.check(self)
        self.aggregation.check(self)
        check_statistics(self)
        if self.training.update_norm is not None:
            self._check_update_norm()
        if self.training.patience is not None and self.metrics.epsilon > 0:
            raise ValueError(
                "training.patience: expected none with metrics.epsilon > 0: the sites tell of their own "
                "examples after the last round that the job plans, which such a run may not reach"
            )
        if self.training.personal_steps:
            self._check_personal()
        check_warm_start(self)
        check_features(self)
        if self.model.source != DRAWN:  # whose weights are averaged themselves, and no factors of them
            check_average(self)
        check_shrink(self)
        check_rates_fit(self)
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
    def begins_elsewhere(self) -> bool:
        """Whether the first adapter has more in it than what the model and the seeds make."""
        return self.training.warm_start is not None or self.model.features is not None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The parts of the run in order; one for all of it where the job names none."""
        return make_phases(self.training, self.phase)

    def phase_of(self, round_number: int) -> Phase:
        """The phase that a round is in; the last one for what comes after the last round."""
        return phase_in(self.phases, round_number)

    @property
    def trained_rounds(self) -> TrainedRounds:
        """What sites train and send in each round, and what becomes of it."""
        heads = tuple((one.first_round, one.last_round) for one in self.phases if one.head_alone)
        return TrainedRounds(strategy=self.strategy, heads=heads)

    def steps_in(self, round_number: int) -> int:
        """The releases of a round, as its plan counts them: local steps, or one sum of whole sites."""
        return 1 if self.privacy.hides_sites else self.phase_of(round_number).training.local_steps

    @property
    def total_steps(self) -> int:
        """Local steps that each site takes over the whole run."""
        return sum(phase.training.total_steps for phase in self.phases)

    def planned_steps(self, rounds: int) -> int:
        """The releases that a plan is for, of a site that is in so many rounds."""
        if uneven(self):
            return self.total_steps  # each site is in all rounds
        return rounds * self.steps_in(1) + self.training.personal_steps

    def most_rounds(self, *, sites: int) -> int:
        """How many rounds a run of so many sites has those in that are drawn most often."""
        drawn = self.training.rounds * cohort_size(self.federation.cohort, sites=sites)
        return -(-drawn // sites)
