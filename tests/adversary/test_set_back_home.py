"""A site's home is set back in the middle of a run: the next request finds out, at the site and beyond it.

What the site released since is not in its ledger any more. A run that went on would be charged twice for
the same budget, and only an audit with that very ledger would tell.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.ledger.ledger import Ledger
from runs.run_folder import RoundRecord
from server.rounds import run_rounds
from simulation.grid import InProcessGrid
from simulation.local_post import OpenPost
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import charges

VICTIM = "site-2"
LEFT_OUT = "site-2 takes no further part: "
# After a round, with the victim's home and the copy of it that is there.
Deed = Callable[[Path, Path], None]


def set_back(home: Path, copy: Path) -> None:
    """Everything is as it was, as from a backup: ledger, head, manifests and secrets of sums."""
    shutil.rmtree(home)
    shutil.copytree(copy, home)


def set_back_ledger(home: Path, copy: Path) -> None:
    """The ledger and its head alone."""
    for path in home.glob("ledger*"):
        path.unlink()
    for path in copy.glob("ledger*"):
        shutil.copy(path, home / path.name)


def begin_anew(home: Path, copy: Path) -> None:
    """Ledger, head and manifests are gone together: the site begins another ledger, as a new one would."""
    for path in home.glob("ledger*"):
        path.unlink()
    shutil.rmtree(home / "manifests")


class Federation:
    """Four sites whose every answer comes from a process of its own: all that stays is in their homes."""

    def __init__(self, folder: Path, tiny_folder: Path, **changes: object) -> None:
        federation, training = {"sites": 4, "min_sites": 3}, {"rounds": 6}
        job = tiny.job(tiny_folder, federation=federation, training=training, **changes)
        self.world = World(job)
        self.folder = self.world.create_folder(folder / "run")
        self.copy = folder / "copy"

    @property
    def home(self) -> Path:
        return self.folder.path / "sites" / VICTIM

    def answer(self, name: str, content: bytes) -> bytes:
        home = self.folder.path / "sites" / name
        return self.world.site(name, home=home, coordinator=self.folder.identity.public).answer(content)

    def run(self, *, copied: int, put_back: int, deed: Deed) -> None:
        """Run all rounds. The victim's home is copied after one, and the deed is done after another."""

        def listen(record: RoundRecord) -> None:
            if record.round == copied:
                shutil.copytree(self.home, self.copy)
            if record.round == put_back:
                deed(self.home, self.copy)

        handlers = {
            number: lambda content, name=name: self.answer(name, content)
            for number, name in enumerate(self.world.site_names, start=1)
        }
        run_rounds(
            OpenPost(InProcessGrid(handlers)),
            self.folder,
            layout=self.world.adapted.layout,
            evaluator=self.world.workplace.evaluator,
            listener=listen,
        )

    @property
    def absent(self) -> list[list[str]]:
        return [record.absent for record in self.folder.records()]


def ignore_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sites run code that does not look: they answer whatever they are asked."""
    monkeypatch.setattr(Ledger, "check_holds", lambda _self, _head: None, raising=False)


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize(
    ("sums", "deed"), [("none", set_back), ("none", set_back_ledger), ("masks", set_back)]
)
def test_a_home_that_was_set_back_takes_no_further_part(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, sums: str, deed: Deed
) -> None:
    """At the site itself, which is honest and does not know: nothing is released, and nothing charged."""
    federation = Federation(tmp_path, tiny_folder, secure_aggregation=sums)
    with caplog.at_level(logging.WARNING):
        federation.run(copied=1, put_back=2, deed=deed)
    assert federation.absent == [[], [], *[[VICTIM]] * 4]
    assert [charge.round for charge in charges(federation.home)] == [1]
    assert (
        LEFT_OUT + f"{VICTIM} refused: the site cannot use its ledger; its own log says why" in caplog.text
    )
    assert f"{VICTIM} refused: the ledger has no entry" in caplog.text
    assert "an older copy of the site's home was put back" in caplog.text


@pytest.mark.exhaustive
@pytest.mark.parametrize(("sums", "deed"), [("none", set_back), ("masks", set_back_ledger)])
def test_a_site_that_does_not_look_is_found_by_its_receipt(
    tiny_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    sums: str,
    deed: Deed,
) -> None:
    """At the coordinator: its steps do not go on from those that it signed for.

    Where its secrets of sums were set back too, it has to join again first.
    """
    ignore_heads(monkeypatch)
    federation = Federation(tmp_path, tiny_folder, secure_aggregation=sums)
    with caplog.at_level(logging.WARNING):
        federation.run(copied=1, put_back=2, deed=deed)
    assert federation.absent == [[], [], *[[VICTIM]] * 4]
    assert LEFT_OUT + f"{VICTIM} sent a wrong receipt: " in caplog.text
    assert "after 4 of 12 steps, and 2 more, it counts 4; an older copy of the site's home" in caplog.text


@pytest.mark.exhaustive
@pytest.mark.parametrize("deed", [set_back])
def test_before_the_metrics(tiny_folder: Path, tmp_path: Path, deed: Deed) -> None:
    """What the last rounds cost is gone, and the metrics would be paid from it."""
    federation = Federation(tmp_path, tiny_folder, metrics={"epsilon": 1.0})
    federation.run(copied=5, put_back=6, deed=deed)
    assert federation.absent == [[]] * 6
    metrics = federation.folder.metrics
    assert metrics is not None
    assert list(metrics.told_by) == ["site-1", "site-3", "site-4"]
    assert [charge.purpose for charge in charges(federation.home)] == ["training"] * 5


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize(
    ("deed", "looks", "sums"),
    [
        (set_back, True, "none"),
        (set_back_ledger, False, "none"),
        (begin_anew, True, "masks"),
        (begin_anew, False, "none"),
    ],
)
def test_while_the_coordinator_is_away(
    tiny_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    deed: Deed,
    looks: bool,
    sums: str,
) -> None:
    """A run that is resumed knows from its folder what its sites have signed, and all may join again."""
    federation = Federation(tmp_path, tiny_folder, secure_aggregation=sums)

    def kill(home: Path, copy: Path) -> None:
        deed(home, copy)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federation.run(copied=1, put_back=2, deed=kill)
    if not looks:
        ignore_heads(monkeypatch)
    with caplog.at_level(logging.WARNING):
        federation.run(copied=0, put_back=0, deed=deed)
    assert federation.absent == [[], [], *[[VICTIM]] * 4]
    reason = "refused: the site cannot use its ledger" if looks else "sent a wrong receipt: after 4 of 12"
    assert f"{LEFT_OUT}{VICTIM} {reason}" in caplog.text


@pytest.mark.exhaustive
def test_homes_that_are_whole_go_on(tiny_folder: Path, tmp_path: Path) -> None:
    """The control: a copy of the newest home is as good as the home."""
    federation = Federation(tmp_path, tiny_folder, secure_aggregation="masks", metrics={"epsilon": 1.0})
    federation.run(copied=2, put_back=2, deed=set_back)
    assert federation.absent == [[]] * 6
    assert federation.folder.metrics is not None
    assert [charge.round for charge in charges(federation.home)] == [1, 2, 3, 4, 5, 6, 6]
