"""What the documents show can be typed."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer

from confide.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def all_commands() -> dict[str, click.Command]:
    """Every command by its words: "simulate", "audit ledger"."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {key}": c for key, c in inner.items()}
    return found


COMMANDS = all_commands()


def shown_commands(text: str) -> list[list[str]]:
    """The ``confide`` command lines in a document's shell blocks, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.split("  #")[0].split() for block in blocks for line in block.splitlines()]
    return [line[1:] for line in lines if line and line[0].rpartition("/")[2] == "confide"]


def test_the_readme_shows_commands() -> None:
    assert len(shown_commands((ROOT / "README.md").read_text())) >= 8


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_shown_commands_exist(path: Path) -> None:
    for words in shown_commands(path.read_text()):
        command = COMMANDS.get(words[0]) or COMMANDS[" ".join(words[:2])]
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = {word for word in words[1:] if word.startswith("--")} - known
        assert unknown == set(), (path.name, words)


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for name, command in COMMANDS.items():
        assert f"## `confide {name}" in text, name
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or option == "--help" or option in text, (name, option)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), (path.name, target)


def test_the_readmes_make_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
