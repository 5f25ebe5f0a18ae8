"""What a job with ``privacy.unit = "group"`` must say, and what it does not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.job.job import Job


def check_groups(job: Job) -> None:
    """Raises ValueError that names the key to change, for groups that are asked for by half."""
    named = {"group": job.data.group, "rows_per_group": job.data.rows_per_group}
    if not job.privacy.of_groups:
        given = [key for key, value in named.items() if value is not None]
        if given:
            raise ValueError(
                f'data.{given[0]}: expected none with privacy.unit="{job.privacy.unit}", which does not '
                'look at groups: set privacy.unit="group" beside it'
            )
        return
    missing = [key for key, value in named.items() if value is None]
    if missing:
        what = {"group": "the column that says whose a row is", "rows_per_group": "a public number of rows"}
        raise ValueError(f'data.{missing[0]}: expected {what[missing[0]]} with privacy.unit="group"')
    if job.federation.partition != "iid":
        raise ValueError(
            'federation.partition: expected "iid" with privacy.unit="group": a column or labels could deal '
            "the rows of one group to two sites"
        )
