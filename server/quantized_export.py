"""Taking a run's model away in fewer bits, with what that costs on the coordinator's held-out examples."""

from __future__ import annotations

from pathlib import Path

from protocol.job.job import Job
from runs.export import check_whole_weights, chosen_adapter, merge, write_folder
from runs.model_card import write_cards
from runs.privacy_card import AuditResult
from runs.quantized.gguf_file import GgufFile
from runs.quantized.int8_folder import Int8Folder
from runs.quantized.weight_format import WeightFormat, weights_error
from runs.quantized_record import Quantized, Scored, write_record
from runs.run_base import check_run_base, load_run_base
from runs.run_folder import RunFolder
from server.job_context import Workplace
from server.whole_models import WholeModels
from tasks.model.adapted_model import AdaptedModel
from tasks.model.device import choose_device, whole_on

FORMATS: dict[str, WeightFormat] = {one.name: one for one in (Int8Folder(), GgufFile())}


def check_quantizable(job: Job, kind: str) -> WeightFormat:
    """The form that ``FORMATS`` has by that name. Raises UserError where it cannot write a job's model."""
    check_whole_weights(job)
    found = FORMATS[kind]
    found.check_job(job)
    return found


def export_quantized(
    folder: RunFolder,
    to: Path,
    *,
    kind: str,
    held_out: Workplace | str,
    best: bool = False,
    average: bool = False,
    audit: AuditResult | None = None,
) -> Quantized:
    """Write base model and adapter as one model in fewer bits, and what it scores beside the float32 one.

    ``held_out`` is the run's own job at its coordinator, or why there are no held-out examples; then the
    weights' error is all that is stated. What is scored is what was written, as transformers loads it. The
    guarantee is the adapter's own: packing it is post-processing, which reads no site's data. The rest is
    as for ``runs.export.export_merged``, and raises as that does.
    """
    job = folder.manifest.job
    form = check_quantizable(job, kind)
    _, number, averaged = chosen_adapter(folder, best=best, average=average)
    adapted, whole_models = _adapted(folder, held_out)
    base = adapted.base
    form.check_model(base)
    merged = merge(folder, adapted, number=number, averaged=averaged is not None)
    records: list[Quantized] = []

    def write(partial: Path) -> None:
        before = None if whole_models is None else whole_models.score(merged)
        form.write(merged, base, job, partial)
        loaded = form.load(partial, merged, adapted.device)
        weights = weights_error(merged, loaded)
        scored = None
        if whole_models is not None and before is not None:
            after = whole_models.score(loaded)
            scored = Scored(examples=whole_models.examples, before=before, after=after)
        found = Quantized(
            kind=form.name,
            scheme=form.scheme,
            loading=form.loading,
            bytes_before=sum(4 * tensor.numel() for tensor in merged.parameters()),
            bytes_after=sum(path.stat().st_size for path in form.weights(partial)),
            weights=weights,
            scored=scored,
            unscored=held_out if isinstance(held_out, str) else None,
        )
        write_record(found, partial)
        write_cards(
            folder, number=number, exported=partial, audit=audit, averaged=averaged, quantized=found
        )
        records.append(found)

    write_folder(to, write)
    return records[0]


def _adapted(folder: RunFolder, held_out: Workplace | str) -> tuple[AdaptedModel, WholeModels | None]:
    """The run's model, and what scores others in its place. Raises UserError if it is not the run's own."""
    manifest = folder.manifest
    if isinstance(held_out, str):
        job = manifest.job
        base = load_run_base(manifest, files=folder.model_files)
        return AdaptedModel(base, job=job, device=choose_device(whole_on(job.device))), None
    check_run_base(manifest, held_out.adapted.base)
    return held_out.adapted, WholeModels(held_out)
