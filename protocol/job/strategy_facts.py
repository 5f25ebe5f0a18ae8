"""What strategies declare of themselves, by name: for the command that lists them and for the docs."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.job.strategy import Strategy, find_strategy

# A layer's pair and a classifier's head, by names as a layout has them.
_PARTS = {
    "A": "layer.lora_A.weight",
    "B": "layer.lora_B.weight",
    "core": "layer.lora_C.weight",
    "head": "head.weight",
}


@dataclass(frozen=True, kw_only=True)
class StrategyFacts:
    """One strategy's declarations: see ``Strategy`` for each.

    ``trains`` has the parts of an adapter that are trained and sent, "A", "B", "core" and "head", of each
    round until they repeat. ``about`` is what the rule does, in a sentence.
    """

    name: str
    about: str
    trains: tuple[tuple[str, ...], ...]
    linear: bool
    exact: bool
    basis_turns: bool
    messages: int
    compression: bool
    correlated_noise: bool
    server_optimizer: bool
    ranks_differ: bool
    keeps_local: bool
    needs_head: bool
    keys: tuple[str, ...]
    paper: str


def strategy_facts(name: str) -> StrategyFacts:
    """What the strategy of that name declares. Raises UnknownNameError if there is none."""
    rule = find_strategy(name)
    return StrategyFacts(
        name=name,
        about=" ".join((rule.__doc__ or "").strip().partition("\n\n")[0].split()),
        trains=_trained(rule.model_construct(), rule.cycle),
        linear=rule.linear,
        exact=rule.exact,
        basis_turns=rule.basis_turns,
        messages=rule.messages,
        compression=rule.compresses(),
        correlated_noise=rule.correlates(),
        server_optimizer=rule.takes_optimizer(),
        ranks_differ=rule.ranks_differ,
        keeps_local=rule.keeps_local,
        needs_head=rule.needs_head,
        keys=tuple(sorted(rule.model_fields.keys() - Strategy.model_fields.keys())),
        paper=rule.paper,
    )


def _trained(strategy: Strategy, cycle: int) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(
            part
            for part, name in _PARTS.items()
            if strategy.trains_in(name, number)
            and not strategy.keeps(name)
            and (strategy.cored or part != "core")
        )
        for number in range(1, cycle + 1)
    )
