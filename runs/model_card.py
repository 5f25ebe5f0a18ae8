"""The model card of an export: a README.md as the Hub reads it, in words for whoever is given the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy.durable import BY_UMASK, write_durably
from protocol.job.job import DRAWN, Job
from protocol.plain_text import escaped
from runs.averaged_adapter import AveragedAdapter
from runs.formats import format_count, format_delta, format_epsilon, format_lower, format_measure
from runs.model_names import hub_id
from runs.privacy_card import FILE, README, AuditResult, Guarantee, PrivacyCard, make_card, write_card
from runs.quantized_record import Quantized, compared, off_by
from runs.run_folder import RunFolder
from tasks.registry import find_task
from tasks.task import HubTask, SummingTask


def write_cards(
    folder: RunFolder,
    *,
    number: int,
    exported: Path,
    audit: AuditResult | None,
    averaged: AveragedAdapter | None = None,
    quantized: Quantized | None = None,
) -> None:
    """Write privacy card and model card of the adapter after round ``number`` into its exported folder.

    ``averaged`` says so if it is an average of the adapters until then, and ``quantized`` how its weights
    were packed.
    A README.md that the task has written, which says how to load the model, stays as it is.
    """
    words = None if averaged is None else averaged.words
    card = make_card(folder, number=number, exported=exported, audit=audit, averaged=words)
    write_card(card, folder, exported)
    if not (exported / README).exists():
        text = model_card(card, folder, exported, averaged=averaged, quantized=quantized)
        write_durably(exported / README, text.encode(), mode=BY_UMASK)


def model_card(
    card: PrivacyCard,
    folder: RunFolder,
    exported: Path,
    *,
    averaged: AveragedAdapter | None = None,
    quantized: Quantized | None = None,
) -> str:
    """The README.md: a YAML header for the Hub, without a licence, and sections for people."""
    from huggingface_hub import ModelCardData

    config = exported / "adapter_config.json"
    adapter = json.loads(config.read_text("utf-8")) if config.exists() else None
    job = folder.manifest.job
    task = find_task(job.task)
    own = folder.has_own_program
    fits = isinstance(task, SummingTask)  # the Hub's name is for classifiers
    base = None if job.model.source == DRAWN else hub_id(job.model.source)
    header = ModelCardData(
        base_model=base,
        library_name=None if own else "transformers" if adapter is None else "peft",
        pipeline_tag=task.pipeline if isinstance(task, HubTask) and not fits else None,
        tags=_tags(None if own else adapter, base),
    ).to_yaml()
    parts = [
        f"---\n{header}\n---",
        f"# {_code(card.run)}",
        _about(card, job),
        "## Privacy",
        *_privacy(card.privacy),
        *_audited(card.audit),
        f"[`{FILE}`]({FILE}) says the same for machines, with the digests of the files here, signed by the "
        "coordinator. Whoever has Confide can check that nothing was changed:\n\n"
        "```sh\nconfide audit card .\n```\n\n"
        "`--key` compares the signer with the coordinator’s key as you know it.",
        "## What it does",
        *_quality(folder, card.round, job, averaged),
        *_quantized(quantized, job),
        *_loading(adapter, base, own=own, quantized=quantized),
    ]
    return escaped("\n\n".join(parts) + "\n", lines=True)


def _tags(adapter: Mapping[str, Any] | None, base: str | None) -> list[str]:
    about = ["confide", "differential-privacy", "federated-learning"]
    if adapter is None:
        return about
    return sorted([*about, "lora", "transformers", *([f"base_model:adapter:{base}"] if base else [])])


def _about(card: PrivacyCard, job: Job) -> str:
    crowd = card.crowd
    rounds = format_count(card.round, "round")
    trained = (
        f"{format_count(crowd.sites, 'site')} trained it together in {rounds} without showing each other "
        f"their data: {_code(job.task)} on {_code(card.model)}"
    )
    text = (
        f"{trained}. Each round is a sum over at least {crowd.least} of "
        f"{format_count(crowd.in_a_round, 'site')}. Made with Confide {card.versions['confide']}."
    )
    if card.averaged is not None:
        text += f" What is here is not the last adapter as it was released. {card.averaged}."
    if job.training.warm_start is not None:
        text += (
            f" Training began with an adapter that was there before, {_code(job.training.warm_start)}: "
            "what follows counts nothing that it was trained on."
        )
    return text


def _privacy(promise: Guarantee) -> list[str]:
    if promise.epsilon is None:
        return [f"**Nothing is promised**: {promise.caveat}."]
    whose = {"site": "all of one site’s examples", "group": "all rows of one group at a site"}.get(
        promise.unit, "one example of a site"
    )
    text = (
        f"**ε = {format_epsilon(promise.epsilon)} at δ = {format_delta(promise.delta)}** for each "
        f"{promise.unit}, at the site where it is largest: to make {whose} blank changes the probability "
        "of any outcome by at most a factor of e^ε, but for δ."
    )
    table = [
        ("unit", promise.unit),
        ("ε", format_epsilon(promise.epsilon)),
        ("δ", format_delta(promise.delta)),
        ("adjacency", promise.adjacency),
        ("mechanism", promise.mechanism),
        ("noise multiplier", _span(promise.noise_multipliers)),
        ("bands of correlated noise", _span(promise.bands)),
        ("clipping norm", f"{promise.clipping_norm:g}"),
        ("accountant", promise.accountant),
    ]
    rows = [f"| {name} | {value} |" for name, value in table if value is not None]
    if promise.metrics_epsilon:
        rows.append(f"| ε of metrics, beside it | {format_epsilon(promise.metrics_epsilon)} at δ = 0 |")
    return [text, "\n".join(["| | |", "|---|---|", *rows])]


def _span(ends: tuple[float, float] | None) -> str | None:
    if ends is None:
        return None
    least, most = (f"{value:.3g}" for value in ends)
    return least if least == most else f"{least} to {most}"


def _audited(audit: AuditResult | None) -> list[str]:
    if audit is None:
        return ["The job was not attacked to test this (`confide audit empirical`)."]
    return [
        f"An audit attacked the job with {audit.canaries:,} canaries. Verdict: **{audit.verdict}**; "
        f"claimed ε ≤ {format_epsilon(audit.upper)}, shown ε ≥ {format_lower(audit.lower)} with a "
        f"confidence of {100 * audit.confidence:g} %."
    ]


def _quality(folder: RunFolder, number: int, job: Job, averaged: AveragedAdapter | None) -> list[str]:
    """What the round scored, or an average of rounds, a row a measure."""
    records = folder.records()[:number]
    if not records:
        return ["No round was finished: this is what training begins with."]
    rows = [
        f"| {measure.name} | {format_measure((averaged or records[-1]).measures, measure)} |"
        for measure in find_task(job.task).measures
    ]
    return ["On examples that no site trained on:", "\n".join(["| | |", "|---|---|", *rows])]


def _quantized(quantized: Quantized | None, job: Job) -> list[str]:
    """How the weights were packed, and what that cost."""
    if quantized is None:
        return []
    rows = [
        f"| {name} | {before} | {after} |"
        for name, before, after in compared(quantized, find_task(job.task).measures)
    ]
    table = "\n".join([f"| | float32 | {quantized.kind} |", "|---|---|---|", *rows])
    scored = quantized.scored
    said = (
        f"What it scores was not measured: {quantized.unscored}"
        if scored is None
        else f"Both scored on {format_count(scored.examples, 'example')} that no site trained on"
    )
    return [
        f"## What {quantized.kind} costs",
        f"{quantized.scheme}. {off_by(quantized)}. Packing reads no site’s data, so that what is promised "
        f"above holds as it is. {said}.",
        table,
    ]


def _loading(
    adapter: Mapping[str, Any] | None, base: str | None, *, own: bool, quantized: Quantized | None
) -> list[str]:
    if quantized is not None:
        return ["## Loading it", quantized.loading]
    if own:
        whole = "The folder's own program loads it, with torch and what else it imports."
        part = "These are the trained numbers; `confide export --merge` writes the network whole."
        return ["## Loading it", whole if adapter is None else part]
    if adapter is None:
        return ["## Loading it", "With `from_pretrained` of transformers, as any model folder."]
    which = f"`{base}`" if base else "the model whose digest the privacy card has"
    return [
        "## Loading it",
        f"`base` is {which}, as transformers loads it for the task:",
        '```python\nfrom peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base, ".")\n```',
    ]


def _code(text: str) -> str:
    """Text that others wrote, as Markdown shows it and obeys nothing in it."""
    plain = escaped(text).replace("`", "ˋ")
    return f"`{plain}`"
