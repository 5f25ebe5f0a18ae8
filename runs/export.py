"""Taking a run's adapter away: as a PEFT folder, or folded into the whole model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import UserError
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from runs.averaged_adapter import SCORE, AveragedAdapter, averaged_path, load_average, read_average
from runs.best_round import best_round
from runs.factored import factor_residuals
from runs.model_card import write_cards
from runs.peft_form import TRAINED, peft_config, save_tensors
from runs.privacy_card import AuditResult
from runs.run_base import load_run_base
from runs.run_folder import MEMORY, RunFolder
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel
from tasks.model.device import choose_device, whole_on
from tasks.registry import find_task
from tasks.task import SummingTask


def export_adapter(
    folder: RunFolder,
    to: Path,
    *,
    best: bool = False,
    average: bool = False,
    audit: AuditResult | None = None,
) -> None:
    """Write the newest adapter as a folder that ``peft.PeftModel.from_pretrained`` reads.

    With ``best`` it is that of the round with the lowest held-out loss, with ``average`` what the job's
    ``training.average`` has kept beside the last one. What a strategy has moved into the
    base is in its factors, whose rank is then higher than the job's. Layers that the checkpoint lacks,
    which elsewhere would be drawn anew, are in it too; where there are any, the base model is loaded for
    them. Beside it lie a privacy card, with the ``audit`` of the job if there was one, and a model card.
    Raises as ``export_merged`` does.
    """
    source, number, averaged = chosen_adapter(folder, best=best, average=average)
    beside = folder.facts["exported_beside"]
    base = load_run_base(folder.manifest, files=folder.model_files) if beside else None

    def write(partial: Path) -> None:
        shutil.copytree(
            source,
            partial,
            ignore=shutil.ignore_patterns(MEMORY, TRAINED, SCORE),
            dirs_exist_ok=True,
        )
        factor_residuals(partial)
        if base is not None:
            _add_layers(partial, base, beside)
        write_cards(folder, number=number, exported=partial, audit=audit, averaged=averaged)

    write_folder(to, write)


def export_merged(
    folder: RunFolder,
    to: Path,
    *,
    best: bool = False,
    average: bool = False,
    audit: AuditResult | None = None,
) -> None:
    """Write base model, adapter and tokenizer as one folder, as the task writes it.

    ``best``, ``average``, ``audit`` and the cards are as for ``export_adapter``. Raises ModelError if the
    base model cannot be loaded, UserError if it is not the run's own, if the folder exists, or if no round
    has finished of which one is best, or if none were averaged.
    """
    _, number, averaged = chosen_adapter(folder, best=best, average=average)
    job = folder.manifest.job
    check_whole_weights(job)
    base = load_run_base(folder.manifest, files=folder.model_files)
    adapted = AdaptedModel(base, job=job, device=choose_device(whole_on(job.device)))
    merged = merge(folder, adapted, number=number, averaged=averaged is not None)

    def write(partial: Path) -> None:
        find_task(job.task).export(merged, base, partial)
        write_cards(folder, number=number, exported=partial, audit=audit, averaged=averaged)

    write_folder(to, write)


def check_whole_weights(job: Job) -> None:
    """Raises UserError for a job on packed weights, which no adapter can be merged into."""
    if job.model.quantization is not None:
        raise UserError(
            f'model.quantization="{job.model.quantization}" has no whole weights that an adapter could be '
            "merged into: export the adapter, and merge it into the model as it is published"
        )


def merge(folder: RunFolder, adapted: AdaptedModel, *, number: int, averaged: bool) -> Any:
    """The base model with the adapter after round ``number``, or the run's average, folded into it.

    It takes the adapted model's own weights: that can load no other adapter afterwards.
    """
    layout = adapted.layout
    adapted.load(load_average(folder, layout) if averaged else folder.load_adapter(number, layout))
    adapted.features.fold()
    return adapted.peft.merge_and_unload()


def chosen_adapter(
    folder: RunFolder, *, best: bool, average: bool
) -> tuple[Path, int, AveragedAdapter | None]:
    """The folder with what is exported, the round that it is of, and what it is an average of, if it is.

    Raises UserError for what there is not, and for the best of rounds that only add up.
    """
    number = int(folder.adapter_path.resolve().name)
    if average:
        found = read_average(folder)
        if found is None:
            raise UserError(
                f"{folder.path} has kept nothing beside its rounds: set training.average or "
                "training.shrink in the job, and let the run end"
            )
        return averaged_path(folder), found.last, found
    if best:
        job = folder.manifest.job
        task = find_task(job.task)
        if isinstance(task, SummingTask):
            raise UserError(f'--best: expected the last round with task="{job.task}": {task.adds_up}')
        record = best_round(folder.records())
        if record is None:
            raise UserError(f"{folder.path}: no round has finished yet, so that none is best")
        number = record.round
    return folder.path / "rounds" / f"{number:03d}", number, None


def export_kept(
    manifest: Manifest,
    adapter: NDArray[np.float32],
    to: Path,
    *,
    source: str | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write the adapter that a site has kept of a run, float32[adapter_size], as a folder that PEFT reads.

    ``source`` is where the base model is at the site, if not where the job says, and ``files`` where files
    of models beside it are, by their keys in ``[data]``. Raises as ``export_merged`` does.
    """
    job, base = manifest.job, load_run_base(manifest, source=source, files=files)
    adapted = AdaptedModel(base, job=job, device=choose_device(job.device))
    config = peft_config(adapted.peft.peft_config["default"].to_dict(), job.adapter)
    first = adapted.initial_adapter(job.seeds.adapter) if job.adapter.changes_base else None
    # As it was loaded: PEFT has put its own layers into the other.
    fresh = load_run_base(manifest, source=source, files=files) if adapted.exported_beside else None

    def write(partial: Path) -> None:
        (partial / "adapter_config.json").write_text(json.dumps(config), "utf-8")
        begun = None if first is None else adapted.layout.split(first)
        save_tensors(partial, adapted.layout.split(adapter), begun=begun)
        (partial / TRAINED).unlink(missing_ok=True)
        factor_residuals(partial)
        if fresh is not None:
            _add_layers(partial, fresh, list(adapted.exported_beside))

    write_folder(to, write)


def _add_layers(adapter: Path, base: BaseModel, layers: list[str]) -> None:
    """Put layers of the base model into a PEFT folder, as layers that are saved whole."""
    from safetensors.torch import load_file, save_file

    config, weights = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    table = json.loads(config.read_text("utf-8"))
    table["modules_to_save"] = [*base.head, *layers]
    config.write_text(json.dumps(table), "utf-8")
    tensors = load_file(weights)
    for layer in layers:
        if f"base_model.model.{layer}.lora_A.weight" in tensors:
            raise UserError(
                f"PEFT cannot tell {layer}, which has an adapter, from a layer that the checkpoint lacks: "
                "export the whole model with --merge"
            )
        for name, tensor in base.model.get_submodule(layer).state_dict().items():
            # A bias of it may have been trained.
            tensors.setdefault(f"base_model.model.{layer}.{name}", tensor.contiguous())
    save_file(tensors, weights, metadata={"format": "pt"})


def write_folder(to: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder beside ``to`` and rename it: what exists under the name is whole.

    Raises UserError if there is something already.
    """
    if to.exists():
        raise UserError(f"{to} exists already: name another folder")
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        write(partial)
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
