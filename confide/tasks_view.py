"""What ``confide tasks`` shows."""

from __future__ import annotations

from typing import Any

from confide.console import plain_console, print_json, shown
from tasks.registry import find_task, task_names
from tasks.task import SummingTask

# What a task does, and with which kinds of models.
_TRAINED = (
    "trains",
    {"pretrained": "LoRA on a pretrained model", "drawn": "a small network, whole"},
)
_SUMMED = (
    "sums up",
    {"pretrained": "a frozen model's features", "drawn": "means of an example's numbers"},
)


def print_tasks(*, json: bool) -> None:
    """Every task that can be named here: what it learns, how it is judged, and its keys."""
    tables = [_describe(name) for name in task_names()]
    if json:
        print_json({"tasks": tables})
        return
    console = plain_console()
    for table in tables:
        console.print(f"[bold]{shown(table['name'])}[/bold]: {shown(table['about'])}")
        article = "an" if table["example"].startswith(tuple("aeiou")) else "a"
        console.print(
            f"  an example is {article} {shown(table['example'])}, its size is counted in {table['size']}"
        )
        verb, kinds = _SUMMED if table["sums"] else _TRAINED
        console.print(f"  {verb} {' or '.join(said for key, said in kinds.items() if table[key])}")
        console.print(f"  judged by {', '.join(map(shown, table['measures']))}")
        console.print(f"  keys in a job's \\[data]: {', '.join(map(shown, table['job_keys']))}")
        console.print(f"  keys in site.toml's \\[data.ALIAS]: {', '.join(map(shown, table['site_keys']))}")


def _describe(name: str) -> dict[str, Any]:
    task = find_task(name)
    return {
        "name": name,
        "about": task.about,
        "example": task.units.example,
        "size": task.units.size,
        "measures": [measure.title for measure in task.measures],
        "labelled": task.labelled,
        "pretrained": task.pretrained,
        "drawn": task.drawn,
        "sums": isinstance(task, SummingTask),
        "job_keys": list(task.Section.model_fields),
        "site_keys": list(task.Columns.model_fields),
    }
