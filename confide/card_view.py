"""What ``confide audit card`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confide.console import plain_console, shown
from runs.formats import format_count, format_delta, format_epsilon, format_lower, format_percent

if TYPE_CHECKING:
    from runs.privacy_card import PrivacyCard


def card_table(card: PrivacyCard, key: str) -> dict[str, Any]:
    """A card that holds, as JSON shows it, and the key that signed it."""
    return {"ok": True, "key": key, "card": card.model_dump(mode="json")}


def print_card(card: PrivacyCard, key: str, *, known: bool) -> None:
    """A card that holds, for people: fits 80 columns. ``known`` is whether the key was given."""
    console, promise, crowd = plain_console(), card.privacy, card.crowd
    files = format_count(len(card.files), "file")
    console.print(f"[green]✓[/green] [bold]{shown(card.run)}[/bold]: {files}, each as it was signed for")
    console.print(f"  key {key[:16]}…, round {card.round} of {card.rounds}, manifest {card.manifest[:16]}…")
    if promise.epsilon is None:
        console.print(f"  [yellow]nothing is promised[/yellow]: {shown(promise.caveat or '')}")
    else:
        console.print(
            f"  ε = {format_epsilon(promise.epsilon)} at δ = {format_delta(promise.delta)} for each "
            f"{promise.unit}, {shown(promise.mechanism)} noise"
        )
        console.print(f"  by {promise.accountant}, adjacency {promise.adjacency}")
        if promise.bands is not None:
            console.print(f"  noise correlated over {promise.bands[1]} steps at the most")
    console.print(
        f"  {format_count(crowd.sites, 'site')} trained, {crowd.in_a_round} in a round, "
        f"{crowd.least} at least"
    )
    if card.audit is not None:
        audit = card.audit
        console.print(
            f"  audit: {audit.verdict}, ε ≥ {format_lower(audit.lower)} shown with confidence "
            f"{format_percent(audit.confidence)}"
        )
    if not known:
        console.print(
            "\n[yellow]Caution:[/yellow] without the coordinator's key (--key), the card's own is only its "
            "word."
        )
