"""What ``confide export --quantize`` reads to score a model, and what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from confide.console import plain_console, plain_table, shown
from privacy.errors import DataError
from protocol.job.job import Job
from protocol.plain_text import first_line
from runs.privacy_card import AuditResult
from runs.quantized_record import Quantized, compared, off_by
from runs.run_folder import RunFolder
from server.quantized_export import check_quantizable, export_quantized
from tasks.model.device import whole_on
from tasks.registry import compares_with_start, find_task
from tasks.task import WritingTask

if TYPE_CHECKING:
    from server.job_context import Workplace


def export_and_print(
    folder: RunFolder, to: Path, *, kind: str, best: bool, average: bool, audit: AuditResult | None
) -> None:
    """Write a run's model in fewer bits, and show what that costs. Raises as ``export_quantized`` does."""
    check_quantizable(folder.manifest.job, kind)  # before the data are read
    found = export_quantized(
        folder, to, kind=kind, held_out=held_out_of(folder), best=best, average=average, audit=audit
    )
    print(f"Wrote a model to {to}; its README.md says how it is loaded")
    print_quantized(found, folder.manifest.job)


def print_quantized(found: Quantized, job: Job) -> None:
    """How far the weights are off, and both models' scores where there are held-out examples."""
    console, table = plain_console(), plain_table("", "float32", found.kind)
    for row in compared(found, find_task(job.task).measures):
        table.add_row(*row)
    console.print(table)
    console.print(f"{shown(off_by(found))}.")
    if found.scored is None:
        console.print(f"[yellow]Not scored[/yellow]: {shown(found.unscored or '')}.")
    else:
        console.print(f"Scored on {found.scored.examples:,} held-out examples, which no site has.")


def held_out_of(folder: RunFolder) -> Workplace | str:
    """The run's job with the coordinator's held-out examples, or why there are none."""
    job, asked = folder.manifest.job, folder.facts["held_out_examples"]
    if isinstance(find_task(job.task), WritingTask):
        return "what a model writes is compared with the base model, in whose place it would be"
    # The folder that training began with may be gone; what was in it the run itself has.
    compares = compares_with_start(job)
    training = job.training.model_copy(update={"warm_start": None})
    job = job.model_copy(update={"training": training, "device": whole_on(job.device)})
    try:
        if folder.facts.get("federation") is None:
            from simulation.simulated_federation import World

            found = World(job, files=folder.model_files).workplace
        else:
            from server.job_context import Workplace

            found = Workplace.load(job, files=folder.model_files)
    except DataError as error:
        return f"the held-out examples cannot be read here: {first_line(error)}"
    if len(found.held_out) != asked:
        return f"the data have {len(found.held_out):,} held-out examples now, and the run had {asked:,}"
    if compares:
        found.adapted.begin_with(folder.load_adapter(0, found.adapted.layout))
    return found
