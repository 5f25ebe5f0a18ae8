"""A site's own adapter of a run, for ``confide site adapter`` and ``confide export --site``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.local_round import ADAPTER
from client.site_memory import SiteMemory
from privacy.errors import UserError
from protocol.job.manifest import Manifest
from runs.export import export_kept
from tasks.registry import has_own_program


def export_own(
    manifest: Manifest,
    memory: SiteMemory,
    to: Path,
    *,
    source: str | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write what a site has kept of a run as a PEFT folder, and say so.

    Raises UserError where it has kept no adapter, and as ``export_kept`` does.
    """
    adapter = memory.newest().get(ADAPTER)
    if adapter is None:
        raise UserError(
            f"the site has kept no adapter of run {manifest.run}: sites keep one where something of it "
            'never leaves them (strategy.name="fedsa", strategy.keep_local, training.personal_steps); the '
            "coordinator has the run's own (confide export)"
        )
    export_kept(manifest, adapter, to, source=source, files=files)
    own = has_own_program(manifest.job, source=source)
    how = "" if own else "; load it with peft.PeftModel.from_pretrained"
    print(f"Wrote this site's adapter to {to}{how}")
    if manifest.job.privacy.hides_sites or not manifest.job.privacy.protects:
        print("What is in it was trained without noise: it is as private as the data")
