"""Names and labels that a terminal or a page would obey: refused when a job is read, escaped when shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from client.agent.site_host import SiteHost
from client.agent.site_status import SiteStatus, Waiting
from client.custody.home import Home
from client.custody.site_file import read_site_file
from client.planning import plan_here
from confide.audit_view import ledger_table, print_ledger
from confide.cli import main
from confide.server_view import print_status
from confide.site_view import print_site_status
from confide.terminal import LiveTable, PlainLines
from privacy.canonical import canonical_json
from privacy.ledger.entries import Refused
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.manifest import MANIFEST_PURPOSE
from protocol.messages.confide_pb2 import AgentHealth, Join, Reply, Request
from protocol.messages.envelope import COORDINATOR, open_envelope
from protocol.plain_text import is_plain
from runs.report.report import render_report
from server.post.post import refusal
from server.service.server_status import RunStatus, ServerStatus
from server.service.server_status import SiteStatus as ServedSite
from simulation.simulated_federation import World
from tests import tiny
from tests.client.agents import SITE, Coordinator, write_site
from tests.privacy.ledgers import open_ledger
from tests.server.runs import make_record, make_run

# A terminal's red, its title, a link, a line turned around, a name that hides a part, a line of its own,
# half a character, C1's red; and what rich would obey: markup, a link and an emoji.
HOSTILE = "\x1b[31mred\x1b]0;owned\x07\x1b]8;;http://evil\x07\u202eevil\u200b\u2066\u2028\r\n\ud800\x9b31m"
MARKUP = "[red]x[/red][link=http://evil]y[/link]:skull:[/]"


@pytest.fixture(scope="module")
def world(tiny_folder: Path) -> World:
    return World(tiny.job(tiny_folder))


def assert_plain(output: str) -> None:
    """Nothing but lines of text that a terminal only shows."""
    assert all(is_plain(line) for line in output.split("\n")), ascii(output)


def squeezed(output: str) -> str:
    """Without what a narrow terminal puts between and into words."""
    return "".join(output.split())


class Site:
    def __init__(self, home: Path, folder: Path, world: World) -> None:
        self.coordinator = Coordinator()
        self.home = home
        self.manifest = world.manifest("run")
        path = write_site(home, folder, self.coordinator.identity)
        self.resident = SiteHost(home, read_site_file(path), planner=plan_here)

    def join(self, change: Any) -> Reply:
        """Ask to join with a manifest that is changed as JSON."""
        table = json.loads(self.manifest.content)
        change(table)
        content = canonical_json(table)
        signature = self.coordinator.identity.sign(MANIFEST_PURPOSE, content)
        request = Request(join=Join(manifest=content, signature=signature))
        envelope = self.coordinator.seal(request, run="run")
        public = self.coordinator.identity.public
        opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
        return Reply.FromString(self.resident.answer(opened))


SEQUENCES = ["\x1b[31m", "\x9b31m", "\u202e", "\u2066", "\u200b", "\u2028", "\n", "\t", "\x7f", "\u3164"]
PLACES: dict[str, Any] = {
    "a label": lambda table, text: table.update(labels=["no", f"yes{text}"]),
    "a job's label": lambda table, text: table["job"]["data"].update(labels=["no", f"yes{text}"]),
    "an alias": lambda table, text: table["job"]["data"].update(alias=f"data{text}"),
    "a source": lambda table, text: table["job"]["data"].update(source=f"x{text}"),
    "a column": lambda table, text: table["job"]["data"].update(text=f"x{text}"),
    "an encoding": lambda table, text: table["job"]["data"].update(encoding=f"x{text}"),
    "a model": lambda table, text: table["job"]["model"].update(source=f"x{text}"),
    "weights": lambda table, text: table["job"]["model"].update(gguf=f"x{text}"),
    "a module": lambda table, text: table["job"]["adapter"].update(target_modules=["query", f"x{text}"]),
    "layers": lambda table, text: table["job"]["adapter"].update(layers_to_transform=f"top{text} 20%"),
    "a site's column": lambda table, text: table["job"]["federation"].update(
        partition={"column": f"x{text}"}
    ),
    "a key": lambda table, text: table["job"]["data"].update({f"x{text}": 1}),
    "a choice": lambda table, text: table["job"]["privacy"].update(unit=f"example{text}"),
    "the job's name": lambda table, text: table["job"].update(name=f"x{text}"),
    "the run": lambda table, text: table.update(run=f"run{text}"),
    "a digest": lambda table, text: table.update(layout_digest=f"ab{text}"),
    "the version": lambda table, text: table.update(version=f"0{text}"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_no_join_brings_a_site_what_a_terminal_would_obey(
    tmp_path: Path, tiny_folder: Path, world: World, place: Any
) -> None:
    site = Site(tmp_path / "home", tiny_folder, world)
    for text in SEQUENCES:
        reply = site.join(lambda table, text=text: place(table, text))
        assert reply.HasField("refused"), ascii(text)
        assert_plain(reply.refused.reason)
    # None of it was ever a manifest: not even the ledger heard of it.
    assert not (tmp_path / "home" / "ledger.db").exists()
    assert not (tmp_path / "home" / "manifests").exists()
    assert not (tmp_path / "home" / "pending").exists()


# What is on disk already, from before or from others.


def test_an_old_runs_report_shows_hidden_characters_as_escapes(tmp_path: Path) -> None:
    sites = {f"north{HOSTILE}": 1.5, f"south{MARKUP}<script>": 1.5}
    records = [make_record(number, epsilon=sites) for number in (1, 2)]
    folder = make_run(
        tmp_path / "run",
        records=records,
        labels=[f"good{HOSTILE}", "bad"],
        device=f"cpu{HOSTILE}",
        federation=f"five{HOSTILE}",
        examples_by_site=dict.fromkeys(sites, 100),
        versions={f"torch{HOSTILE}": f"2{HOSTILE}"},
    )
    page = render_report(folder)
    assert_plain(page)
    page.encode()
    assert "north\\x1b[31mred" in page
    assert "<script" not in page


def test_an_audited_ledger_is_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = HOSTILE.replace("\ud800", "")  # no ledger takes half a character
    ledger = open_ledger(tmp_path, site=f"{hostile}{MARKUP}")
    ledger.record(
        Refused(run=f"{hostile}{MARKUP}", manifest="m", rule=hostile, reason=f"{hostile}{MARKUP}")
    )
    ledger.close()
    audit = audit_ledger(tmp_path / "ledger.db")
    print_ledger(audit)
    output = capsys.readouterr().out
    assert_plain(output)
    assert output.count(MARKUP) == 2
    assert_plain(json.dumps(ledger_table(audit)))


def test_statuses_are_shown_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")  # so that no cell is folded
    text = f"{HOSTILE}{MARKUP}"
    print_status(
        ServerStatus(
            federation=text,
            proxy="nginx",
            address=text,
            running=True,
            sites=[ServedSite(site=text, state=text)],
            certificates={text: "2030-01-01"},
            runs=[RunStatus(run=text, state=text, done=0, rounds=2, reason=text)],
        )
    )
    agent = AgentHealth(site=SITE, state=MARKUP, run=MARKUP)
    waiting = (Waiting(run=text, manifest="m"),)
    print_site_status(SiteStatus(site=text, home=tmp_path, agent=agent, budgets=(), waiting=waiting))
    output = capsys.readouterr().out
    assert_plain(output)
    assert output.count(MARKUP) == 13


def test_a_runs_progress_is_shown_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run")
    title = f"{HOSTILE}{MARKUP}"
    lines = PlainLines()
    lines.stage(title)
    lines.started(folder, title)
    monkeypatch.setenv("COLUMNS", "300")
    with LiveTable() as live:
        live.stage(title)
        live.started(folder, title)
        live.doing(f"waits for {title}")
        live.round(make_record(3))
    output = capsys.readouterr().out
    assert_plain(output)
    assert output.startswith("\\x1b[31mred")
    assert squeezed(output).count(squeezed(MARKUP)) >= 4
    assert "waitsfor\\x1b[31mred" in squeezed(output)


def test_a_hostile_site_tells_the_coordinator_no_more_than_text() -> None:
    reply = Reply(site=SITE)
    reply.refused.reason = HOSTILE.replace("\ud800", "") * 100_000
    for change in ({}, {"budget_spent": True}, {"lost": True}):
        for name, value in change.items():
            setattr(reply.refused, name, value)
        error = refusal(reply)
        assert_plain(str(error))
        assert len(str(error)) < 1000


def test_a_manifest_that_waits_from_before_is_refused_with_its_text_escaped(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    manifest = world.manifest("run")
    home.write_policy(world.policy(None))
    home.keep_waiting(manifest, b"signature")
    (path,) = (home.path / "pending").glob("*.json")
    table = json.loads(manifest.content)
    table["job"]["model"]["source"] = f"x{HOSTILE}".replace("\ud800", "")
    path.write_bytes(canonical_json(table))
    for words in (
        ["site", "approve", "run", "--yes", "--home", home.path],
        ["site", "approve", "\x1b[31m"],
    ):
        monkeypatch.setattr(sys, "argv", ["confide", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code
    output = capsys.readouterr()
    assert "(here U+0007, U+000A, U+000D, U+" in output.err
    assert_plain(output.out)
    # Typer frames its own errors in lines; nothing that was typed is among what it draws.
    assert "\x1b[31m" not in output.err
