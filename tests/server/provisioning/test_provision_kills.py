"""Provisioning that is killed before each of its writes, and what the next one makes of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client.custody.peers import read_peers
from protocol.messages.site_keys import read_site_keys
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.provisioning.provision import provision
from tests.server.federations import NOW, check_whole, contents, federation_file, federation_of

Step = Callable[[Path], None]


def first(out: Path) -> None:
    provision(federation_file("north"), out, now=NOW)


def adding(out: Path) -> None:
    provision(federation_file("north", "south", "west"), out, now=NOW)


def reissuing(out: Path) -> None:
    provision(federation_file("north"), out, now=NOW, reissue=["north"])


def revoking(out: Path) -> None:
    provision(federation_file("north", "south"), out, now=NOW, revoke=["south"])


def renewing(out: Path) -> None:
    provision(federation_file("north", address="other:1"), out, now=NOW, renew=True)


def nothing(out: Path) -> None:
    out.parent.mkdir()


def one_site(out: Path) -> None:
    nothing(out)
    first(out)


def two_sites(out: Path) -> None:
    nothing(out)
    provision(federation_file("north", "south"), out, now=NOW)


def one_site_handed_over(out: Path) -> None:
    one_site(out)
    shutil.rmtree(out / "kits" / "north")


# What a process does to a disk; it is killed just before the n-th of these.
_CHANGES = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir"}


def killed_at(step: Step, out: Path, number: int, *, skip_hidden: bool) -> bool:
    """Run a step in a process that is killed before its n-th change to the disk; whether it came so far.

    ``skip_hidden`` does not count changes inside a kit that is out of sight: they are all alike.
    """
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
            hidden = ".partial/" in f"{arguments[0]}" if arguments else False
            if (writes or event in _CHANGES) and not (hidden and skip_hidden):
                left -= 1
                if left == 0:
                    os._exit(9)

        code = 1
        try:
            os.fsync = lambda _descriptor: None  # no power is cut here
            sys.addaudithook(count)
            step(out)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 9}
    return code == 9


@pytest.mark.process
@pytest.mark.parametrize(
    ("begin", "step", "sites", "least"),
    [
        (one_site, adding, {"north", "south", "west"}, 16),
        (nothing, first, {"north"}, 60),
        (two_sites, revoking, {"north", "south"}, 6),
        (one_site_handed_over, reissuing, {"north"}, 8),
        (one_site, renewing, {"north"}, 4),
    ],
)
def test_what_a_kill_leaves_out_the_next_run_makes(
    begin: Step, step: Step, sites: set[str], least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    begin(tmp_path / "start" / "federation")
    old = {kit.name for kit in (tmp_path / "start").glob("federation/kits/*")}
    number = 1
    while True:
        place = tmp_path / str(number)
        shutil.copytree(tmp_path / "start", place)
        out = place / "federation"
        killed = killed_at(step, out, number, skip_hidden=step is not first)
        if not killed:
            break
        keys = (
            {name: site.identity for name, site in federation_of(out).sites.items()} if known(out) else {}
        )
        shown = {kit.name for kit in (out / "kits").glob("[!.]*")}
        # What can be handed over is what the coordinator knows.
        assert all(read_site_keys(out / "kits" / name).identity.hex() == keys[name] for name in shown)
        # And whoever is handed one knows all the others.
        assert all(set(read_peers(out / "kits" / name / "peers.toml")) == sites for name in shown - old)
        step_again(step, out)
        check_whole(out, sites)
        if number % 8 == 0 and step is not renewing:
            before = contents(out)
            step_again(step, out)
            assert contents(out) == before
        shutil.rmtree(place)
        number += 1
    assert number > least  # the process was killed at every change, and there were many


def known(out: Path) -> bool:
    return CoordinatorFolder(out / "coordinator").is_provisioned


def step_again(step: Step, out: Path) -> None:
    """The same command again; a reissue that was completed is not asked for twice."""
    if step is reissuing and (out / "kits" / "north").exists():
        step = first
    step(out)
