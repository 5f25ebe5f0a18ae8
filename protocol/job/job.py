"""The job: what a coordinator asks for, as people write it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from protocol.job.data_section import DataSection
from protocol.job.job_section import JobSection
from protocol.plain_text import Place, Word

# What the numbers of a job may be: further than a real run goes, and no more than a site can bear that is
# asked by a stranger. A plan at these ends takes up to 5 seconds and 150 MiB: privacy.accounting bounds
# what it composes, whatever the numbers are. Over a million steps floats may add about the least δ to δ.
ROUNDS_MAX, LOCAL_STEPS_MAX, TOTAL_STEPS_MAX = 100_000, 100_000, 1_000_000
# A batch is expected to be no larger than a site's data. What is computed at once holds a gradient of each.
BATCH_MAX, PHYSICAL_BATCH_MAX = 10_000_000, 65_536
# With more sites a round's list of them, their keys and their graph take seconds at each of them.
SITES_MAX = 10_000
# What NumPy, torch and TOML take as one number.
SEED_MAX = 2**63 - 1


class ModelSection(JobSection):
    """The frozen base model."""

    source: Place = Field(description="Hugging Face id, folder, or package:NAME/PATH")
    gguf: Word | None = Field(None, description="file name of GGUF weights inside the source")
    pooling: Literal["mean", "model"] = Field(
        "model", description="mean: classify the mean of the tokens; model: as the model does it"
    )


_Layers = Annotated[list[Annotated[int, Field(ge=0, le=10_000)]], Field(max_length=1000)]


class AdapterSection(JobSection):
    """The LoRA adapter."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    alpha: Annotated[float, Field(ge=1e-6, le=1e6)] = 4.0
    dropout: Annotated[float, Field(ge=0, le=0.99)] = 0.0
    target_modules: list[Word] = Field(min_length=1, max_length=1000)
    layers_to_transform: _Layers | Word | None = Field(
        None, description='layer numbers, or "top 20%" to freeze the lower 80 %'
    )

    @model_validator(mode="after")
    def _layers(self) -> AdapterSection:
        layers = self.layers_to_transform
        if isinstance(layers, str) and top_share(layers) is None:
            raise ValueError(f'layers_to_transform: expected numbers or "top 20%", got {layers!r}')
        if layers == []:
            raise ValueError("layers_to_transform: expected at least one layer, got []")
        return self


class Dirichlet(JobSection):
    """Labels are dealt to the sites by Dirichlet(α); small α makes sites differ."""

    dirichlet: Annotated[float, Field(ge=1e-6, le=1e6)]


class ByColumn(JobSection):
    """Each value of a column is a site."""

    column: Word


class FederationSection(JobSection):
    """The sites that a simulation makes, and how many of a real run's must answer how soon."""

    sites: Annotated[int, Field(ge=1, le=SITES_MAX)] = 4
    partition: Literal["iid"] | Dirichlet | ByColumn = "iid"
    # A round counts with so many sites' updates; unset: all.
    min_sites: Annotated[int, Field(ge=1, le=SITES_MAX)] | None = None
    # Seconds after which a round of a real run closes with those that answered.
    deadline: Annotated[float, Field(ge=10, le=7 * 86400)] = 3600.0


class TrainingSection(JobSection):
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

    @model_validator(mode="after")
    def _steps(self) -> TrainingSection:
        if self.total_steps > TOTAL_STEPS_MAX:
            raise ValueError(
                f"expected rounds · local_steps <= {TOTAL_STEPS_MAX}, got rounds={self.rounds}, "
                f"local_steps={self.local_steps}"
            )
        return self

    @property
    def total_steps(self) -> int:
        """Local steps that each site takes over the whole run."""
        return self.rounds * self.local_steps


class PrivacySection(JobSection):
    """What is promised to whom."""

    mechanism: Literal["gaussian", "laplace", "skellam", "none"] = "gaussian"
    unit: Literal["example", "site"] = "example"
    # Who adds what hides a whole site: the sites, in shares, or the coordinator, which then knows the sum.
    noise: Literal["distributed", "central"] = "distributed"
    epsilon: Annotated[float, Field(ge=1e-6, le=100)] = 3.0
    delta: Annotated[float, Field(ge=1e-9, lt=0.5)] = 1e-5
    clipping_norm: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0


class MetricsSection(JobSection):
    """Accuracy on the sites' own examples after the last round, under Laplace noise of its own ε."""

    epsilon: Annotated[float, Field(ge=0, le=100, description="0: no metrics leave a site")] = 0.0

    @model_validator(mode="after")
    def _enough(self) -> MetricsSection:
        if 0 < self.epsilon < 1e-6:
            raise ValueError(f"epsilon: expected 0, or 1e-06 at least, got {self.epsilon}")
        return self


class AggregationSection(JobSection):
    """How updates are summed where nobody may read a single one."""

    # Sites whose answers uncover a sum, and without which nothing is uncovered; unset: ⌊2n/3⌋ + 1.
    threshold: Annotated[int, Field(ge=2, le=SITES_MAX)] | None = None
    # How many sites may work together with the coordinator without reading another's update.
    colluding: Annotated[int, Field(ge=0, le=SITES_MAX)] = 0
    # Whether sites sign who has answered before they uncover a sum; if not, the coordinator must be honest.
    confirm: bool = True
    modulus_bits: Literal[16, 20, 32] = 32


class CompressionSection(JobSection):
    """Sending fewer numbers; what is not sent waits at the site."""

    kind: Literal["none", "random", "top-k"] = "none"
    share: Annotated[float, Field(ge=1e-6, le=1)] = 0.1


class StrategySection(JobSection):
    """How the sites' updates become the next adapter."""

    name: Literal["fedsvd", "ffa", "lora"] = "fedsvd"


class SeedsSection(JobSection):
    """What is fixed. ``noise`` makes a simulation reproducible and therefore not private."""

    adapter: Annotated[int, Field(ge=0, le=SEED_MAX)] = 0
    data: Annotated[int, Field(ge=0, le=SEED_MAX)] = 0
    noise: Annotated[int, Field(ge=0, le=SEED_MAX)] | None = None


class DeviceSection(JobSection):
    """Where tensors live and in which precision the frozen layers compute."""

    name: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class Job(JobSection):
    """A job, whole. Every section but three has a default."""

    name: str = Field("confide", min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: Word = Field("sequence-classification", description="one of those that `confide tasks` lists")
    model: ModelSection
    adapter: AdapterSection
    data: DataSection
    federation: FederationSection = FederationSection()
    training: TrainingSection = TrainingSection()
    privacy: PrivacySection = PrivacySection()
    metrics: MetricsSection = MetricsSection()
    secure_aggregation: Literal["masks", "homomorphic", "none"] = "masks"
    aggregation: AggregationSection = AggregationSection()
    compression: CompressionSection = CompressionSection()
    strategy: StrategySection = StrategySection()
    seeds: SeedsSection = SeedsSection()
    device: DeviceSection = DeviceSection()

    @model_validator(mode="after")
    def _combinations(self) -> Job:
        self._check_unit()
        self._check_sums()
        if self.metrics.epsilon > 0 and self.privacy.mechanism == "none":
            raise ValueError(
                'metrics.epsilon: expected 0 with privacy.mechanism="none": noise on metrics protects '
                "nothing once the updates have left without any"
            )
        if self.training.physical_batch_size > self.training.batch_size:
            raise ValueError(
                "training.physical_batch_size: expected at most training.batch_size="
                f"{self.training.batch_size}, got {self.training.physical_batch_size}"
            )
        return self

    @property
    def steps_a_round(self) -> int:
        """The releases of a round, as its plan counts them: local steps, or one sum of whole sites."""
        return 1 if self.privacy.unit == "site" else self.training.local_steps

    @property
    def planned_steps(self) -> int:
        """The releases of the whole run."""
        return self.training.rounds * self.steps_a_round

    def _check_unit(self) -> None:
        privacy = self.privacy
        if privacy.unit == "example":
            if self.adapter.dropout > 0 and privacy.mechanism != "none":
                raise ValueError(
                    "adapter.dropout: expected 0 where noise hides an example: masks are drawn along a "
                    "batch, so that each example would change those of all after it"
                )
            if privacy.mechanism == "skellam" or privacy.noise == "central":
                raise ValueError(
                    'privacy.unit: expected "site" with privacy.mechanism="skellam" or '
                    'privacy.noise="central": an example is hidden by its own site\'s noise'
                )
            return
        mechanism = "gaussian" if privacy.noise == "central" else "skellam"
        if privacy.mechanism not in (mechanism, "none"):
            raise ValueError(
                f'privacy.mechanism: expected "{mechanism}" with privacy.unit="site" and privacy.noise='
                f'"{privacy.noise}", got "{privacy.mechanism}"'
            )
        if privacy.noise == "distributed" and self.secure_aggregation != "masks":
            raise ValueError(
                'secure_aggregation: expected "masks" with privacy.unit="site": a site\'s own share of the '
                'noise hides nothing until it is in the sum; or privacy.noise="central" and a coordinator '
                "that is trusted"
            )
        if privacy.noise == "distributed" and not self.aggregation.confirm:
            raise ValueError(
                'aggregation.confirm: expected true with privacy.unit="site": a site that is read alone '
                "has no more noise than its own share"
            )
        if privacy.noise == "central" and self.aggregation.modulus_bits != 32:
            raise ValueError(
                'aggregation.modulus_bits: expected 32 with privacy.noise="central": a sum that wraps '
                "around before its noise is added hides nobody"
            )
        if self.metrics.epsilon > 0:
            raise ValueError(
                'metrics.epsilon: expected 0 with privacy.unit="site": a site\'s count would be released '
                "beside what hides it"
            )

    def _check_sums(self) -> None:
        kind = self.compression.kind
        if kind != "none" and self.strategy.name == "fedsvd":
            raise ValueError(
                'compression.kind: expected "none" with strategy.name="fedsvd", which turns the adapter\'s '
                "basis after each round: what waits at a site would be added to other directions than it "
                'belongs to; use strategy.name="ffa"'
            )
        if kind == "top-k" and (self.secure_aggregation != "none" or self.privacy.unit == "site"):
            raise ValueError(
                'compression.kind: "top-k" picks coordinates site by site, which cannot be summed unread: '
                'expected "random", or secure_aggregation="none" and privacy.unit="example"'
            )
        if self.secure_aggregation == "homomorphic":
            self._check_homomorphic()
        self._check_aggregation()

    def _check_aggregation(self) -> None:
        if self.secure_aggregation == "masks":
            return
        kept = {"threshold"} if self.secure_aggregation == "homomorphic" else set()
        default = AggregationSection().model_dump()
        changed = {name for name, value in self.aggregation.model_dump().items() if value != default[name]}
        for name in sorted(changed - kept):
            raise ValueError(
                f'aggregation.{name}: it is for secure_aggregation="masks", got '
                f'"{self.secure_aggregation}": leave it out'
            )

    def _check_homomorphic(self) -> None:
        wanted = 'with secure_aggregation="homomorphic"'
        if self.compression.kind != "none":
            raise ValueError(
                f'compression.kind: expected "none" {wanted}, whose ciphertexts are of whole updates'
            )
        if self.privacy.unit == "site":
            raise ValueError(
                f'privacy.unit: expected "example" {wanted}: a single site opens the sum, which would have '
                'no noise yet; use secure_aggregation="masks"'
            )
        if self.metrics.epsilon > 0:
            raise ValueError(
                f"metrics.epsilon: expected 0 {wanted}, which sums updates alone; use "
                'secure_aggregation="masks"'
            )


def top_share(layers: str) -> float | None:
    """The share in ``"top 20%"`` as 0.2, or None if it says something else."""
    words = layers.split()
    if len(words) != 2 or words[0] != "top" or not words[1].endswith("%"):
        return None
    try:
        percent = float(words[1][:-1])
    except ValueError:
        return None
    return percent / 100 if 0 < percent <= 100 else None
