"""The job's ``[[phase]]`` tables: a run in parts, one after another, each with some keys of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from protocol.job.section import Section
from protocol.job.training_section import (
    BATCH_MAX,
    LOCAL_STEPS_MAX,
    ROUNDS_MAX,
    TOTAL_STEPS_MAX,
    TrainingSection,
)
from protocol.plain_text import Word

if TYPE_CHECKING:
    from protocol.job.job import Job

# The accountant composes a distribution for each, which takes up to a second.
PHASES_MAX = 8
# What the shares of all phases may be off one by, as people round them.
_SHARES_OFF = 1e-6
# What people may look for here, and why it is one for the whole run.
_WHOLE_RUN = {
    "task": "the sites' examples and the model's head are of one task: run the jobs as stages, a [[stage]] "
    "of a file of their own each, which confide simulate takes in a job's place",
    "strategy": 'updates have one layout in the whole run: use train = "head" for the head alone',
    "adapter": "updates have one layout in the whole run",
    "epsilon": "one promise is for the whole run: use share, this phase's part of the privacy loss",
    "optimizer": "the grid of all sums is by one optimizer: set training.optimizer",
}


class PhaseSection(Section):
    """One ``[[phase]]``: its rounds, and what differs in them; what is unset is as in ``[training]``."""

    name: Word
    rounds: Annotated[int, Field(ge=1, le=ROUNDS_MAX)]
    train: Literal["strategy", "head"] = Field(
        "strategy", description="strategy: what strategy.name trains; head: the classification head alone"
    )
    learning_rate: Annotated[float, Field(ge=1e-12, le=1e38)] | None = None
    decay: Literal["none", "linear"] | None = None
    local_steps: Annotated[int, Field(ge=1, le=LOCAL_STEPS_MAX)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=BATCH_MAX)] | None = None
    share: Annotated[float, Field(ge=1e-3, lt=1)] | None = Field(
        None, description="the phase's part of the privacy loss; unset in all: one noise multiplier"
    )

    @model_validator(mode="before")
    @classmethod
    def _for_the_whole_run(cls, value: Any) -> Any:
        for key, why in _WHOLE_RUN.items():
            if isinstance(value, dict) and key in value:
                raise ValueError(f"{key}: expected none in a phase: {why}")
        return value


class PhaseTraining(TrainingSection):
    """``[training]`` as it is in one phase; its rounds are the phase's, which begins at ``first_round``."""

    first_round: int

    def rounds_before(self, round_number: int) -> int:
        return round_number - self.first_round


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some rounds of a run on end: from ``first_round``, as ``training`` says.

    Attributes:
        name: the job's word for it; empty where the job has no phases, and this is all of the run.
        training: what each site does in one of its rounds.
        head_alone: whether only the classification head is trained, and nothing that the strategy adapts.
        share: its part of the privacy loss; None where all phases have one noise multiplier.
    """

    name: str
    first_round: int
    training: TrainingSection
    head_alone: bool = False
    share: float | None = None

    @property
    def last_round(self) -> int:
        return self.first_round + self.training.rounds - 1


def make_phases(training: TrainingSection, sections: Sequence[PhaseSection]) -> tuple[Phase, ...]:
    """A run's phases in order: one for all of it where the job has none.

    Raises ValueError for keys of a phase that do not go with those of ``[training]``.
    """
    if not sections:
        return (Phase(name="", first_round=1, training=training),)
    phases, first = list[Phase](), 1
    for section in sections:
        phases.append(
            Phase(
                name=section.name,
                first_round=first,
                training=_training_in(training, section, first_round=first),
                head_alone=section.train == "head",
                share=section.share,
            )
        )
        first += section.rounds
    return tuple(phases)


def _training_in(training: TrainingSection, section: PhaseSection, *, first_round: int) -> PhaseTraining:
    own = section.model_dump(
        include={"rounds", "learning_rate", "decay", "local_steps", "batch_size"}, exclude_none=True
    )
    batch = own.get("batch_size", training.batch_size)
    physical = min(training.physical_batch_size, batch)
    table = training.model_dump() | own | {"physical_batch_size": physical, "first_round": first_round}
    try:
        return PhaseTraining.model_validate(table)
    except ValidationError as error:
        raise ValueError(f"phase: in {section.name}, {error.errors()[0]['msg']}") from error


def phase_in(phases: Sequence[Phase], round_number: int) -> Phase:
    """The phase that a round is in; the last one for all that comes after it."""
    return next((phase for phase in phases if round_number <= phase.last_round), phases[-1])


def check_phases(job: Job) -> None:
    """Raises ValueError that names the key to change, for a job whose phases cannot be."""
    if not job.phase:
        return
    rounds = sum(section.rounds for section in job.phase)
    if job.training.rounds != rounds:
        raise ValueError(
            f"training.rounds: expected {rounds}, as many as all phases have together, or none beside "
            f"[[phase]], got {job.training.rounds}"
        )
    names = [section.name for section in job.phase]
    if len(set(names)) < len(names):
        raise ValueError(f"phase: expected names that differ, got {', '.join(names)}")
    steps = sum(phase.training.total_steps for phase in job.phases)
    if steps > TOTAL_STEPS_MAX:
        raise ValueError(f"phase: expected {TOTAL_STEPS_MAX} local steps at most in all, got {steps}")
    _check_whole_run(job)
    _check_shares(job)
    if any(phase.head_alone for phase in job.phases):
        _check_head(job)


def _check_whole_run(job: Job) -> None:
    """What lasts from round to round and was made for rounds that are alike."""
    if job.privacy.correlated:
        raise ValueError(
            f'privacy.noise_correlation: expected "none" with [[phase]], got '
            f'"{job.privacy.noise_correlation}": a phase\'s steps would take back noise that was added at '
            "another learning rate or to other tensors, and the plan's matrix is for steps that are alike"
        )
    if job.strategy.corrects:
        raise ValueError(
            f'strategy.name: expected one without corrections with [[phase]], got "{job.strategy.name}": '
            "what its sites keep of a round is measured by that round's learning rates"
        )
    if job.training.personal_steps:
        raise ValueError(
            "training.personal_steps: expected 0 with [[phase]]: which phase's steps they are like, nobody "
            f"says, got {job.training.personal_steps}"
        )
    if uneven(job) and job.federation.cohort is not None:
        raise ValueError(
            "federation.cohort: expected none with phases that differ in local_steps, batch_size or share: "
            "a site that is drawn in some rounds plans for how many they are, and not for which"
        )
    if uneven(job) and job.privacy.protects and job.privacy.mechanism != "gaussian":
        raise ValueError(
            'privacy.mechanism: expected "gaussian" with phases that differ in batch_size, local_steps or '
            f'share, got "{job.privacy.mechanism}": their steps are composed as Gaussian noise is'
        )


def _check_shares(job: Job) -> None:
    shares = [section.share for section in job.phase if section.share is not None]
    if not shares:
        return
    if len(shares) < len(job.phase) or abs(sum(shares) - 1.0) > _SHARES_OFF:
        raise ValueError(
            "phase: expected a share in each phase or in none, and 1 as their sum, got "
            f"{', '.join('none' if one.share is None else f'{one.share:g}' for one in job.phase)}"
        )
    if job.privacy.hides_sites:
        raise ValueError(
            'phase: expected no share with privacy.unit="site": what hides a whole site is planned for '
            "sums of one kind"
        )


def _check_head(job: Job) -> None:
    """What goes with rounds that train the head alone: its update is in the head's places of any update."""
    strategy = job.strategy
    for key, expected, got, why in (
        (
            "strategy.name",
            'one whose aggregate is a mean, as "fedsvd"',
            f'"{strategy.name}"' if not strategy.linear or strategy.needs_head else None,
            "it trains the head alone in any round"
            if strategy.needs_head
            else "it needs each site's update",
        ),
        (
            "strategy.keep_local",
            '"nothing"',
            f'"{strategy.keep_local}"' if strategy.keep_local != "nothing" else None,
            "nothing that is trained would be sent",
        ),
        (
            "strategy.server",
            "none",
            f'"{strategy.server.optimizer}"' if strategy.server is not None else None,
            "an optimizer counts the rounds that trained a tensor as if they were alike",
        ),
        (
            "compression.kind",
            '"none"',
            f'"{job.compression.kind}"' if job.compression.kind != "none" else None,
            "what waits at a site would be added to a later round's other tensors",
        ),
        (
            "adapter.bias",
            '"none"',
            f'"{job.adapter.bias}"' if job.adapter.bias != "none" else None,
            "what is not LoRA is the head then",
        ),
        (
            "adapter.ranks",
            "none",
            "some" if job.adapter.ranks is not None else None,
            "sites of other ranks would have the head in other places of their updates",
        ),
    ):
        if got is not None:
            raise ValueError(f'{key}: expected {expected} with train = "head" in a phase, got {got}: {why}')


def uneven(job: Job) -> bool:
    """Whether steps of different phases differ to the accountant, or rounds in how many they have."""
    if job.privacy.hides_sites:
        return False
    kinds = {(one.training.local_steps, one.training.batch_size, one.share) for one in job.phases}
    return len(kinds) > 1
