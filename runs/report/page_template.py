"""A page's template: the filters that write numbers, and the one style sheet of all pages."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from runs.formats import (
    format_bytes,
    format_delta,
    format_epsilon,
    format_measure,
    format_percent,
    format_seconds,
)

if TYPE_CHECKING:
    from jinja2 import Template


@cache
def page_template(package: str, name: str) -> Template:
    """The template of this name among a package's files; the style sheet is its ``style``."""
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {
        "bytes": format_bytes,
        "seconds": format_seconds,
        "epsilon": format_epsilon,
        "percent": format_percent,
        "measure": format_measure,
        "delta": format_delta,
    }
    page.globals["style"] = files("runs.report").joinpath("style.css").read_text("utf-8")
    return page.from_string(files(package).joinpath(name).read_text("utf-8"))
