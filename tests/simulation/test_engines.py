"""Both engines reach the same sites: one process, and Flower's simulation on Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from privacy.errors import ProtocolError, RunError, SiteError
from protocol.messages.confide_pb2 import Join, Joined, Refused, Reply, Request, Trained
from protocol.messages.flower import unwrap, wrap
from runs.progress import PrintedProgress
from runs.run_folder import RunFolder
from server.post.post import Exchange
from simulation.grid import InProcessGrid
from simulation.local_post import OpenPost
from simulation.quiet import terminal_for_us_alone
from simulation.ray_engine import _begin
from simulation.simulate import simulate
from tests import tiny

REQUEST = Request(join=Join(manifest=b"m"))


def exchange(grid: InProcessGrid) -> Exchange:
    post = OpenPost(grid)
    return post.ask(dict.fromkeys(post.sites(), REQUEST), round_number=1, min_survivors=1, seconds=1)


def handler(reply: Reply):
    return lambda content: reply.SerializeToString()


@pytest.mark.process
def test_ray_gives_the_same_adapter_and_leaves_the_terminal_alone(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From any folder, where runs, model and data are named from; in each phase as the phase says."""
    pytest.importorskip("ray")
    monkeypatch.chdir(tiny_folder)
    second = {"name": "second", "rounds": 1, "batch_size": 8, "learning_rate": 0.25}
    job = tiny.job(
        tiny_folder,
        seeds={"noise": 3},
        training={"rounds": 2},
        phase=[{"name": "first", "rounds": 1}, second],
        model={"source": "model"},
    )
    content = []
    for engine, runs in (("inprocess", tmp_path), ("ray", Path(os.path.relpath(tmp_path)))):
        run = simulate(job, runs=runs, name=engine, engine=engine, progress=PrintedProgress())
        weights = RunFolder.open(run.folder).adapter_path / "adapter_model.safetensors"
        content.append(weights.read_bytes())
    assert content[0] == content[1]
    told = capfd.readouterr()
    assert told.err == ""
    first, second = (part.splitlines() for part in told.out.split("Reading the data")[1:])
    assert [line.split()[:2] for line in first[2:]] == [line.split()[:2] for line in second[2:]]


def test_what_others_write_to_the_terminal_is_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with terminal_for_us_alone(tmp_path / "run.log"):
        print("ours")
        subprocess.run([sys.executable, "-c", "print('a child\\'s')"], check=True)
        os.write(2, b"a library's\n")
    os.write(1, b"as before\n")
    assert (tmp_path / "run.log").read_text() == "a child's\na library's\n"
    assert capfd.readouterr() == ("ours\nas before\n", "")


@pytest.mark.process
def test_ray_passes_a_sites_refusal_on(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    job = tiny.job(tiny_folder, training={"batch_size": 500})
    with pytest.raises(SiteError, match="batch_size=500"):
        simulate(job, runs=tmp_path, engine="ray")


def joined(name: str):
    return handler(Reply(site=name, joined=Joined()))


def test_every_node_gets_its_own_message() -> None:
    seen = []

    def answer(name: str):
        def respond(content: bytes) -> bytes:
            seen.append((name, content))
            return Reply(site=name, joined=Joined()).SerializeToString()

        return respond

    grid = InProcessGrid({7: answer("b"), 3: answer("a")})
    found = exchange(grid)
    assert list(found.replies) == ["a", "b"]
    assert sorted(seen) == [("a", REQUEST.SerializeToString()), ("b", REQUEST.SerializeToString())]
    assert found.bytes_down == 2 * len(REQUEST.SerializeToString())


def test_a_refusal_names_the_site() -> None:
    reply = Reply(site="north", refused=Refused(reason="not with us", exit_code=2))
    found = exchange(InProcessGrid({1: handler(reply)}))
    with pytest.raises(SiteError, match="north refused: not with us") as caught:
        found.require(1, "joined", what="joining")
    assert caught.value.exit_code == 2


def test_two_sites_of_one_name_are_refused() -> None:
    grid = InProcessGrid({1: joined("a"), 2: joined("a")})
    with pytest.raises(SiteError, match="two nodes call themselves a"):
        exchange(grid)


def test_a_silent_site_is_missed() -> None:
    class Deaf(InProcessGrid):
        def send_and_receive(self, messages, **how):
            return list(super().send_and_receive(messages, **how))[:-1]

    grid = Deaf({1: joined("a"), 2: joined("b")})
    with pytest.raises(SiteError, match="from 2 sites, got 1"):
        exchange(grid)


def test_a_reply_that_is_no_reply_is_refused() -> None:
    with pytest.raises(SiteError, match="cannot be parsed"):
        exchange(InProcessGrid({1: lambda content: b"\xff\xff"}))


def test_an_answer_to_another_question_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a answered join with trained"):
        exchange(InProcessGrid({1: handler(Reply(site="a", trained=Trained()))}))


def test_too_few_answers_say_who_is_missing() -> None:
    found = Exchange(replies={}, silent={"north": "it is not connected"})
    with pytest.raises(RunError, match=r"at least 2 sites in time, got 0 \(north: it is not connected\)"):
        found.require(2, "trained", what="round 3")


def test_stock_flower_cannot_average_a_message() -> None:
    """Its strategies read arrays as NumPy's own; ours says that it is something else."""
    long = wrap(bytes(2**20 + 1))
    array = long.array_records["confide"]["confide"]
    with pytest.raises(TypeError):
        array.numpy()
    # A short one is no array at all.
    assert not wrap(b"update").array_records
    assert unwrap(wrap(b"update")) == b"update"
    assert unwrap(long) == bytes(2**20 + 1)


def test_other_flower_content_is_refused() -> None:
    InProcessGrid({})
    for record in (RecordDict(), RecordDict({"confide": ConfigRecord({"x": 1})})):
        message = Message(record, 1, MessageType.TRAIN)
        with pytest.raises(ProtocolError, match="something else"):
            unwrap(message.content)


@pytest.mark.parametrize(("slow", "works"), [(2, True), (3, False)])
def test_ray_is_begun_again_where_its_node_was_too_slow(
    slow: int, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    begun: list[str] = []

    def begin(address: str, **_options: object) -> None:
        begun.append(address)
        if begun.count("local") <= slow:
            raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr(ray, "init", begin)
    monkeypatch.setattr(ray, "shutdown", lambda: begun.append("ended"))
    if works:
        _begin("local", {})
    else:
        with pytest.raises(RunError, match=r"Ray cannot be reached: The current node timed out"):
            _begin("local", {})
    assert begun == ["local", "ended", "local", "ended", "local"]
