"""A strategy: what sites train and send, and how what they sent becomes the next adapter.

The job's ``[strategy]`` section is the strategy: its keys are the fields, its rule is the methods. A job, a
model, a site and the coordinator all ask the section; nothing but this file knows where a rule's code is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from protocol.entry_registry import Registry
from protocol.job.section import Section
from protocol.plain_text import Word

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from protocol.job.layout import AdapterLayout

_DEFAULT = "fedsvd"


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """A run between two rounds: the adapter, float32[adapter_size], and what the strategy remembers.

    ``memory`` holds arrays by name. The coordinator alone has it, and keeps it with each round's adapter.
    """

    adapter: NDArray[np.float32]
    memory: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Strategy(Section):
    """Federated averaging (McMahan et al. 2017, arXiv:1602.05629) of all tensors, unless a rule says else.

    A rule is a subclass with its ``name`` as a literal, its own keys of the job as fields, and whichever
    methods differ. All of them are pure functions of what they are given: a run that was stopped goes on
    with the same result, and sites and coordinator agree.

    Attributes:
        paper: where the rule was published.
        linear: the mean of what sites send is all that ``merge`` needs, and nobody has to read each.
        exact: the merged product B·A is the mean of the sites' products.
        basis_turns: the adapter's basis is another one after each round, so that no change of it may wait
            for a later round.
        corrects: sites correct their steps by what ``beside`` sends and by what they keep of their own last
            round (see ``client.control_variate``).
    """

    name: Word
    keep_local: Literal["nothing", "head"] = Field(
        "nothing", description="head: each site trains a classification head of its own, which stays there"
    )
    paper: ClassVar[str]
    linear: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    basis_turns: ClassVar[bool] = False
    corrects: ClassVar[bool] = False

    @model_validator(mode="wrap")
    @classmethod
    def _by_name(cls, value: Any, handler: ModelWrapValidatorHandler[Strategy]) -> Strategy:
        if cls is Strategy and isinstance(value, dict):
            return find_strategy(value.get("name", _DEFAULT)).model_validate(value)
        return handler(value)

    def allows(self, job: Job) -> None:
        """Raises ValueError that names the key to change, for a job that the rule does not go with."""
        if not self.linear and (job.aggregation.hidden or job.privacy.hides_sites):
            raise ValueError(
                f'strategy.name: "{self.name}" needs each site\'s update, and not their sum: expected '
                'aggregation.kind="none" and privacy.unit="example", or another strategy'
            )
        if not self.linear and job.federation.weights is not None:
            raise ValueError(
                f'federation.weights: expected none with strategy.name="{self.name}", which takes each '
                "site's update for itself, and no weighted mean"
            )
        if job.compression.kind != "none" and self.basis_turns:
            raise ValueError(
                f'compression.kind: expected "none" with strategy.name="{self.name}", which turns the '
                "adapter's basis after each round: what waits at a site would be added to other directions "
                'than it belongs to; use strategy.name="ffa"'
            )

    def trains(self, name: str) -> bool:  # noqa: ARG002 - all are
        """Whether sites train a tensor of the adapter, by its name in the layout."""
        return True

    def keeps(self, name: str) -> bool:
        """Whether a tensor that sites train stays at each site, which has its own, and is never sent."""
        return self.keep_local == "head" and ".lora_" not in name

    def beside(self, state: State) -> NDArray[np.float32] | None:  # noqa: ARG002
        """What goes out beside the adapter, float32[update_size], in units of updates; None for nothing."""
        return None

    def start(self, layout: AdapterLayout, adapter: NDArray[np.float32]) -> State:  # noqa: ARG002
        """The state before the first round, from the adapter that ``seeds.adapter`` drew."""
        return State(adapter=adapter)

    def encode(
        self, layout: AdapterLayout, before: NDArray[np.float32], after: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What a site sends of the adapter it got and the one it trained: float32[update_size].

        Of a linear strategy, vectors are added up unread, and only their mean reaches ``merge``.
        """
        return layout.change(before, after)

    def merge(
        self,
        state: State,
        aggregate: NDArray[np.float32],
        layout: AdapterLayout,
        round_number: int,  # noqa: ARG002 - all are alike
    ) -> State:
        """The state after a round.

        ``aggregate`` is the mean of what sites sent, float32[update_size]; for a strategy that is not
        linear it is what each sent, float32[sites, update_size], in order of the sites' names.
        """
        return State(adapter=layout.apply(state.adapter, aggregate), memory=state.memory)


_STRATEGIES = Registry[type[Strategy]](
    key="name",  # of the section
    group="confide.strategies",
    listed={
        "fedsa": "strategies.fedsa:FedSA",
        "fedsvd": "strategies.fedsvd:FedSVD",
        "ffa": "strategies.ffa:FFA",
        "lora": "strategies.lora:LoRA",
        "scaffold": "strategies.scaffold:Scaffold",
    },
)


def strategy_names() -> tuple[str, ...]:
    """All strategies that are listed here or installed."""
    return _STRATEGIES.names()


def find_strategy(name: object) -> type[Strategy]:
    """The strategy of that name. Raises UnknownNameError for any but those that are listed or installed."""
    return _STRATEGIES.find(name)


def default_strategy() -> Strategy:
    """The strategy of a job that names none."""
    return find_strategy(_DEFAULT).model_validate({})
