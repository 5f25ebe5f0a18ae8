"""A tokenizer that answers questions about private texts: it empties those that match, and a join fails.

The coordinator holds the key that the site pinned and chooses the model. Asked ``^john smith f`` and
``^john smith g``, a site must answer alike, before it reads a text.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

import tasks.data.tokenization
from client.agent.site_host import SiteHost
from client.custody.site_file import read_site_file
from client.planning import plan_here
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tests import tiny
from tests.adversary.hostile_models import ask_texts, change_json, publish
from tests.client.agents import SITE, Coordinator, write_site

SECRET = "john smith food"  # noqa: S105 - a text
QUESTIONS = {"f": "^john smith f", "g": "^john smith g"}
SOURCE = "org/name"
DATA = {"label": "label", "labels": ["no", "yes"]}


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with one text that the attacker asks about."""
    folder = tmp_path_factory.mktemp("asked")
    shutil.copytree(tiny_folder / "model", folder / "model")
    content = tiny.rows()
    content[17] = (SECRET, *content[17][1:])
    tiny.write_csv(folder / "data.csv", content)
    return folder


@pytest.fixture(scope="module")
def honest(folder: Path) -> Manifest:
    return World(tiny.job(folder)).manifest("run")


@pytest.fixture
def texts_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the tokenizer saw."""
    found = []
    tokenize = tasks.data.tokenization.tokenize

    def watch(tokenizer: Any, *, texts: Any, **options: Any) -> Any:
        found.append(len(texts))
        return tokenize(tokenizer, texts=texts, **options)

    monkeypatch.setattr(tasks.data.tokenization, "tokenize", watch)
    return found


class Asking:
    """A coordinator that asks a site of its own, which is new for each question, by way of a model."""

    def __init__(self, folder: Path, place: Path, honest: Manifest) -> None:
        self.folder, self.place, self.honest = folder, place, honest

    def ask(
        self, letter: str, *, site: dict[str, Any], source: str, digest: str
    ) -> tuple[bytes, list[Any]]:
        """The reply's bytes, and what the site's ledger says besides who it is and when."""
        coordinator = Coordinator()
        home = self.place / f"home-{letter}"
        path = write_site(home, self.folder, coordinator.identity, **site)
        resident = SiteHost(home, read_site_file(path), planner=plan_here)
        manifest = replace(self.honest, job=self._job(source), model_digest=digest)
        public = coordinator.identity.public
        envelope = coordinator.join(manifest)
        opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
        reply = resident.answer(opened)
        events = [entry.event for entry in audit_ledger(home / "ledger.db").entries]
        return reply, [getattr(event, "reason", type(event).__name__) for event in events]

    def _job(self, source: str) -> Job:
        return tiny.job(self.folder, model={"source": source})


@pytest.fixture
def asking(folder: Path, tmp_path: Path, honest: Manifest) -> Asking:
    return Asking(folder, tmp_path, honest)


def digest_of(folder: Path, model: Path) -> str:
    return World(tiny.job(folder, model={"source": str(model)})).manifest("run").model_digest


def test_a_model_that_nobody_named_is_not_loaded(
    asking: Asking, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts_read: list[int]
) -> None:
    """Any id of the Hub would do otherwise: the attacker owns one."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    answers = []
    for letter, pattern in QUESTIONS.items():
        model = ask_texts(tmp_path / letter, folder / "model", pattern)
        publish(tmp_path / "cache", f"attacker/asks-{letter}", model)
        source = f"attacker/asks-{letter}"
        reply, said = asking.ask(letter, site={}, source=source, digest=asking.honest.model_digest)
        assert (
            "none of the models that this site's custodian named" in Reply.FromString(reply).refused.reason
        )
        answers.append((reply.replace(source.encode(), b""), [line.replace(source, "") for line in said]))
    assert answers[0] == answers[1]
    assert texts_read == []


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("place", ["folder", "hub"])
def test_a_model_that_was_exchanged_is_another(
    asking: Asking,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    texts_read: list[int],
    place: str,
    pinned: bool,
) -> None:
    """The custodian named this model, and what lies there now has its weights and another tokenizer."""
    answers = []
    for letter, pattern in QUESTIONS.items():
        cache = tmp_path / f"cache-{letter}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        model = ask_texts(tmp_path / letter, folder / "model", pattern)
        publish(cache, SOURCE, model)
        site: dict[str, Any] = {"models": {SOURCE: str(model) if place == "folder" else f"hub:{SOURCE}"}}
        if pinned:
            site["rules"] = {"models": [asking.honest.model_digest]}
        answers.append(asking.ask(letter, site=site, source=SOURCE, digest=asking.honest.model_digest))
        assert "the model differs" in Reply.FromString(answers[-1][0]).refused.reason
    # Which of the two it has instead follows from the model alone.
    assert [len(reply) for reply, _ in answers] == [len(answers[0][0])] * 2
    assert texts_read == []


def test_with_and_without_the_text_a_site_says_the_same(
    asking: Asking, folder: Path, tmp_path: Path, texts_read: list[int]
) -> None:
    model = ask_texts(tmp_path / "model", folder / "model", QUESTIONS["f"])
    tiny.write_csv(tmp_path / "without.csv", tiny.rows())
    answers = []
    for letter, data in (("a", folder / "data.csv"), ("b", tmp_path / "without.csv")):
        site = {"models": {SOURCE: str(model)}, "data": {"data": {**DATA, "source": str(data)}}}
        answers.append(asking.ask(letter, site=site, source=SOURCE, digest=asking.honest.model_digest))
    assert answers[0] == answers[1]
    assert texts_read == []


def test_a_pinned_model_is_pinned_whole(
    asking: Asking, folder: Path, tmp_path: Path, texts_read: list[int]
) -> None:
    """The manifest has the digest of the model with the attacker's tokenizer and the same weights."""
    for letter, pattern in QUESTIONS.items():
        model = ask_texts(tmp_path / letter, folder / "model", pattern)
        site = {"models": {SOURCE: str(model)}, "rules": {"models": [asking.honest.model_digest]}}
        digest = digest_of(folder, model)
        texts_read.clear()  # the attacker has read texts of its own for that
        reply, _ = asking.ask(letter, site=site, source=SOURCE, digest=digest)
        assert texts_read == []
        assert "refuses, by rules.models: " in Reply.FromString(reply).refused.reason


def make_token(number: int) -> Callable[[dict[str, Any]], None]:
    """Gives one word another number."""
    return lambda table: table["model"]["vocab"].update(food=number)


def stand_around(number: int) -> Callable[[dict[str, Any]], None]:
    """Begins each text with a number that is no word's."""
    return lambda table: table["post_processor"]["special_tokens"]["[CLS]"].update(ids=[number])


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("number", [17, 1_000, 2**31, 2**32 - 1])
@pytest.mark.parametrize("change", [make_token, stand_around])
def test_a_word_without_a_row_is_found_before_it_is_read(
    asking: Asking,
    folder: Path,
    tmp_path: Path,
    texts_read: list[int],
    number: int,
    change: Callable[[int], Callable[[dict[str, Any]], None]],
) -> None:
    """A word that the embedding has no row for would fail where a text has it, at joining or in a round."""
    model = shutil.copytree(folder / "model", tmp_path / "model")
    change_json(model / "tokenizer.json", change(number))
    change_json(
        model / "tokenizer_config.json", lambda table: table.update(tokenizer_class="TokenizersBackend")
    )
    reply, _ = asking.ask("x", site={"models": {SOURCE: str(model)}}, source=SOURCE, digest="0" * 64)
    assert "cannot be loaded at this site" in Reply.FromString(reply).refused.reason
    assert texts_read == []


def test_the_same_site_joins_with_the_model_that_it_has(
    asking: Asking, folder: Path, texts_read: list[int]
) -> None:
    site = {"models": {SOURCE: str(folder / "model")}, "rules": {"models": [asking.honest.model_digest]}}
    reply, _ = asking.ask("h", site=site, source=SOURCE, digest=asking.honest.model_digest)
    assert Reply.FromString(reply).HasField("joined")
    assert texts_read == [tiny.ROWS]
