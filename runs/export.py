"""Taking a run's adapter away: as a PEFT folder, or folded into the whole model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from privacy.errors import UserError
from runs.run_folder import MEMORY, RunFolder
from tasks.model.base_model import load_base_model
from tasks.model.device import choose_device
from tasks.registry import find_task


def export_adapter(folder: RunFolder, to: Path) -> None:
    """Write the newest adapter as a folder that ``peft.PeftModel.from_pretrained`` reads."""

    def write(partial: Path) -> None:
        shutil.copytree(
            folder.adapter_path.resolve(),
            partial,
            ignore=shutil.ignore_patterns(MEMORY),
            dirs_exist_ok=True,
        )

    _write_whole(to, write)


def export_merged(folder: RunFolder, to: Path) -> None:
    """Write base model, adapter and tokenizer as one folder, as the task writes it.

    Raises ModelError if the base model cannot be loaded, UserError if it is not the run's own or if
    the folder exists.
    """
    from peft import PeftModel

    manifest = folder.manifest
    device = choose_device(manifest.job.device)
    base = load_base_model(manifest.job, labels=manifest.labels, device=device)
    if base.digest != manifest.model_digest:
        raise UserError(
            f"model.source={manifest.job.model.source!r} is not the model of this run: expected "
            f"SHA-256 {manifest.model_digest[:16]}…, got {base.digest[:16]}…"
        )
    merged = PeftModel.from_pretrained(base.model, folder.adapter_path.resolve()).merge_and_unload()

    def write(partial: Path) -> None:
        find_task(manifest.job.task).export(merged, base, partial)

    _write_whole(to, write)


def _write_whole(to: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder beside ``to`` and rename it: what exists under the name is whole."""
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
