"""A strategy: what sites train and send, and how what they sent becomes the next adapter.

The job's ``[strategy]`` section is the strategy: its keys are the fields, its rule is the methods. A job, a
model, a site and the coordinator all ask the section; nothing but this file knows where a rule's code is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from protocol.entry_registry import Registry
from protocol.job.section import Section
from protocol.job.server_section import ServerSection
from protocol.plain_text import Word

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from protocol.job.job import Job
    from protocol.job.layout import AdapterLayout

_DEFAULT = "fedsvd"
_ALIASES = {"lora": "fedit"}  # names that jobs may use for another one, which manifests have


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

    What a rule does not go with is refused when a job is read, from what it declares here.

    Attributes:
        server: the optimizer that moves the adapter by the aggregate; None to add the aggregate itself.
        paper: where the rule was published.
        linear: the mean of what sites send is all that ``merge`` needs, and nobody has to read each.
        exact: the merged product B·A is the mean of the sites' products.
        basis_turns: the adapter's basis is another one after each round, so that no change of it may wait
            for a later round.
        cycle: after so many rounds the same tensors are trained again; 1 if they are in each.
        messages: how many vectors a site sends in a round.
        needs_head: only what a classifier's head learns is trained.
        keeps_local: part of what a site trains always stays there.
        residual: ``merge`` moves a part of the product into the base: the layout has a frozen tensor
            [out, in] for each adapted layer, zero at first, which a model adds to the layer's weight.
        ranks_differ: sites may train at ranks of their own (``adapter.ranks``). Each gets the first rows of
            A and columns of B; ``merge`` gets what they send padded, so that B·A is the site's own product.
        cored: between A and B there is a square core, ``lora_C``.
        corrects: sites correct their steps by what ``beside`` sends and by what they keep of their own last
            round (see ``client.control_variate``).
    """

    name: Word
    server: ServerSection | None = None
    keep_local: Literal["nothing", "head"] = Field(
        "nothing", description="head: each site trains a classification head of its own, which stays there"
    )
    paper: ClassVar[str]
    linear: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    basis_turns: ClassVar[bool] = False
    cycle: ClassVar[int] = 1
    messages: ClassVar[int] = 1
    needs_head: ClassVar[bool] = False
    ranks_differ: ClassVar[bool] = False
    keeps_local: ClassVar[bool] = False
    residual: ClassVar[bool] = False
    cored: ClassVar[bool] = False
    corrects: ClassVar[bool] = False

    @property
    def least(self) -> int:
        """How many sites' updates a round takes at least."""
        return 1

    @model_validator(mode="wrap")
    @classmethod
    def _by_name(cls, value: Any, handler: ModelWrapValidatorHandler[Strategy]) -> Strategy:
        if not isinstance(value, dict):
            return handler(value)
        name = value.get("name", _DEFAULT)
        if isinstance(name, str) and name in _ALIASES:
            value = value | {"name": _ALIASES[name]}
        if cls is Strategy:
            return find_strategy(name).model_validate(value)
        return handler(value)

    @classmethod
    def compresses(cls) -> bool:
        """Whether part of an update may wait at a site: each number means the same in the next round."""
        return not cls.basis_turns and cls.cycle == 1

    @classmethod
    def correlates(cls) -> bool:
        """Whether a later round's noise may take some of an earlier one's back: both are summed alike."""
        return cls.linear and cls.compresses()

    def averages(self) -> bool:
        """Whether the mean of several rounds' adapters has the mean of their products B·A, exactly.

        So it is where one factor of a pair moves at most, and in a basis that stays.
        """
        halves = "ABC" if self.cored else "AB"
        moving = [half for half in halves if self.trains(f"layer.lora_{half}.weight")]
        return len(moving) < 2 and not self.basis_turns and not self.residual

    def shrinks(self) -> bool:
        """Whether the last adapter is the first and the sum of the rounds' means, but for a turned basis.

        So it has the sum of the rounds' noise, which is as large in all directions.
        """
        return self.linear and self.averages()

    @classmethod
    def takes_optimizer(cls) -> bool:
        """Whether an optimizer of the coordinator's may stand between the aggregate and the adapter."""
        return cls.linear and not cls.basis_turns

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
        if job.adapter.ranks is not None:
            self._allows_ranks(job)
        own = job.adapter.rank_pattern or job.adapter.alpha_pattern or job.adapter.changes_base
        if self.residual and own:
            raise ValueError(
                f'adapter: expected no rank_pattern, no alpha_pattern and init="orthonormal" with '
                f'strategy.name="{self.name}", which moves products into the base: use "flexlora" or "ffa"'
            )
        if job.adapter.bias != "none" and (self.needs_head or self.keep_local == "head"):
            which = "name" if self.needs_head else "keep_local"
            raise ValueError(
                f'adapter.bias: expected "none" with strategy.{which}="{getattr(self, which)}": what is '
                "not LoRA is the head then"
            )
        if job.adapter.changes_base and self.needs_head:
            raise ValueError(
                f'adapter.init: expected "orthonormal" with strategy.name="{self.name}", which trains no '
                f'pairs, got "{job.adapter.init}"'
            )
        if job.compression.kind != "none" and not self.compresses():
            why = "turns the adapter's basis after each round"
            if not self.basis_turns:
                why = "trains other tensors in the next round"
            raise ValueError(
                f'compression.kind: expected "none" with strategy.name="{self.name}", which {why}: what '
                "waits at a site would be added to other directions than it belongs to; use "
                'strategy.name="ffa"'
            )
        if self.server is not None and not self.takes_optimizer():
            why = (
                "turns the adapter's basis after each round"
                if self.basis_turns
                else "makes more than a mean"
            )
            raise ValueError(
                f'strategy.server: expected none with strategy.name="{self.name}", which {why}: what an '
                'optimizer remembers of earlier rounds would not fit the next; use strategy.name="ffa"'
            )

    def _allows_ranks(self, job: Job) -> None:
        if not self.ranks_differ:
            raise ValueError(
                f'adapter.ranks: expected none with strategy.name="{self.name}", which has one rank for '
                'all sites; use "flora", "flexlora" or, without noise, "hetlora"'
            )
        if self.keep_local != "nothing":
            raise ValueError(
                f'adapter.ranks: expected none with strategy.keep_local="{self.keep_local}", whose sites '
                "have one rank"
            )
        if job.compression.kind != "none":
            raise ValueError(
                f'adapter.ranks: expected none with compression.kind="{job.compression.kind}", which picks '
                "numbers of updates that are all as long"
            )

    def trains(self, name: str) -> bool:  # noqa: ARG002 - all are
        """Whether sites train a tensor of the adapter, by its name in the layout, in any round."""
        return True

    def keeps(self, name: str) -> bool:
        """Whether a tensor that sites train stays at each site, which has its own, and is never sent."""
        return self.keep_local == "head" and ".lora_" not in name

    def trains_in(self, name: str, round_number: int) -> bool:  # noqa: ARG002 - rounds are alike
        """Whether sites train a tensor in a round, which counts from 1; it repeats after ``cycle``."""
        return self.trains(name)

    def lay_out(self, shapes: Mapping[str, tuple[int, ...]]) -> AdapterLayout:
        """The layout of an adapter of these tensors, and of the updates that sites send of it."""
        from protocol.job.layout import FEATURE_MEAN, FEATURE_SCALE, RESIDUAL, AdapterLayout, TensorSlot

        never = RESIDUAL, FEATURE_MEAN, FEATURE_SCALE

        def slot(name: str, shape: tuple[int, ...]) -> TensorSlot:
            trained = self.trains(name) and not name.endswith(never)
            return TensorSlot(name=name, shape=shape, trained=trained, local=trained and self.keeps(name))

        return self.sized(AdapterLayout(slots=tuple(slot(*named) for named in sorted(shapes.items()))))

    def sized(self, layout: AdapterLayout) -> AdapterLayout:
        """The layout, its updates as long as the longest round's: sums have one size in all."""
        if self.cycle == 1:
            return layout
        rounds = (self.in_round(layout, number) for number in range(1, self.cycle + 1))
        return replace(layout, length=max(replace(one, length=None).update_size for one in rounds))

    def in_round(self, layout: AdapterLayout, round_number: int) -> AdapterLayout:
        """The layout with what is trained in a round; its updates are as long as any."""
        if self.cycle == 1:
            return layout
        return layout.narrowed(lambda name: self.trains_in(name, round_number))

    def most_trained(self, layout: AdapterLayout) -> int:
        """How many numbers are trained in a round, in the one that trains the most."""
        rounds = (self.in_round(layout, number) for number in range(1, self.cycle + 1))
        return max(layout.trained_size for layout in rounds)

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

        ``layout`` has what the round trains. Of a linear strategy, vectors are added up unread, and only
        their mean reaches ``merge``.
        """
        return layout.change(before, after)

    def merge(
        self,
        state: State,
        aggregate: NDArray[np.float32],
        layout: AdapterLayout,
        round_number: int,  # noqa: ARG002 - all are alike
    ) -> State:
        """The state after a round, whose ``layout`` has what it trains.

        ``aggregate`` is the mean of what sites sent, float32[update_size]; for a strategy that is not
        linear it is what each sent, float32[sites, update_size], in order of the sites' names.
        """
        return State(adapter=layout.apply(state.adapter, aggregate), memory=state.memory)


_STRATEGIES = Registry[type[Strategy]](
    key="name",  # of the section
    group="confide.strategies",
    listed={
        "fedsvd": "strategies.fedsvd:FedSVD",
        "ffa": "strategies.ffa:FFA",
        "fedit": "strategies.fedit:FedIT",
        "rolora": "strategies.rolora:RoLoRA",
        "fedsb": "strategies.fedsb:FedSB",
        "fedask": "strategies.fedask:FedASK",
        "fedsa": "strategies.fedsa:FedSA",
        "scaffold": "strategies.scaffold:Scaffold",
        "head": "strategies.head:Head",
        "lora_fair": "strategies.lora_fair:LoRAFAIR",
        "flora": "strategies.flora:FLoRA",
        "flexlora": "strategies.flexlora:FlexLoRA",
        "fedex": "strategies.fedex:FedEx",
        "hetlora": "strategies.hetlora:HetLoRA",
        "krum": "strategies.robust:Krum",
        "multi_krum": "strategies.robust:MultiKrum",
        "bulyan": "strategies.robust:Bulyan",
        "trimmed_mean": "strategies.robust:TrimmedMean",
        "median": "strategies.robust:Median",
    },
)


def strategy_names() -> tuple[str, ...]:
    """All strategies that are listed here or installed."""
    return _STRATEGIES.names()


def listed_strategies() -> tuple[str, ...]:
    """Those of Confide, without what is installed beside it."""
    return tuple(_STRATEGIES.listed)


def find_strategy(name: object) -> type[Strategy]:
    """The strategy of that name. Raises UnknownNameError for any but those that are listed or installed."""
    return _STRATEGIES.find(_ALIASES.get(name, name) if isinstance(name, str) else name)


def default_strategy() -> Strategy:
    """The strategy of a job that names none."""
    return find_strategy(_DEFAULT).model_validate({})
