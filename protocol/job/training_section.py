"""The job's ``[training]``: what each site does in a round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from protocol.job.section import Section
from protocol.plain_text import Place, Word

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What the numbers of a job may be: further than a real run goes, and no more than a site can bear that is
# asked by a stranger. A plan at these ends takes up to 5 seconds and 150 MiB: privacy.accounting bounds
# what it composes, whatever the numbers are. Over a million steps floats may add about the least δ to δ.
ROUNDS_MAX, LOCAL_STEPS_MAX, TOTAL_STEPS_MAX = 100_000, 100_000, 1_000_000
# A batch is expected to be no larger than a site's data. What is computed at once holds a gradient of each.
ENSEMBLE_MAX = 64
BATCH_MAX, PHYSICAL_BATCH_MAX = 10_000_000, 65_536


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
    # Factors of the learning rate for tensors, by parts of their names.
    rates: dict[Word, Annotated[float, Field(ge=1e-6, le=1e6)]] = Field(
        default_factory=dict, max_length=1000
    )
    # The L2 norm that each site scales its whole update down to; unset: any.
    update_norm: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    # The run stops after so many rounds without a lower held-out loss; unset: after all.
    patience: Annotated[int, Field(ge=1, le=ROUNDS_MAX)] | None = None
    # FedProx' μ: how hard each step is pulled back to where its round began.
    proximal: Annotated[float, Field(ge=0, le=1e12)] = 0.0
    # What the coordinator keeps beside the last adapter: an average of those that were released.
    average: Literal["none", "polyak", "ema"] = "none"
    # How many of the last adapters the coordinator tries together on held-out examples, when the run ends.
    ensemble: Annotated[int, Field(ge=0, le=ENSEMBLE_MAX)] = 1
    # Whether what it keeps is shrunk by how much of it noise explains: by tensors or by singular values.
    shrink: Literal["none", "norm", "singular"] = "none"
    # A PEFT folder at the coordinator: the adapter that the first round begins with.
    warm_start: Place | None = None
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

    def rates_in(self, round_number: int) -> NDArray[np.float64]:
        """The learning rates of a round's steps, for tensors without a factor: float64[local_steps]."""
        first = self.rounds_before(round_number) * self.local_steps
        weights = self.step_weights(self.total_steps)[first : first + self.local_steps]
        return self.learning_rate * weights

    @property
    def fastest(self) -> float:
        """The largest factor of the learning rate that a tensor may have."""
        return max([1.0, *self.rates.values()])

    def rounds_before(self, round_number: int) -> int:
        """How many of these rounds come before one of them, by its number in the run."""
        return round_number - 1

    @property
    def total_steps(self) -> int:
        """Local steps that each site takes over all of these rounds."""
        return self.rounds * self.local_steps
