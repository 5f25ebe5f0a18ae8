"""Asked for statistics, a site answers alike with one example as with another, but for that one's bins."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import tomli_w

from client import statistics_site
from privacy.mechanisms.counting import ONE
from privacy.mechanisms.rng import keyed_source
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.sums.mask_messages import METRICS_RING
from server.statistics_round import statistics_manifest
from tests import tiny
from tests.adversary.neighbours import EXAMPLES, Party, write_rows
from tests.client.agents import Coordinator

ASKED = {"epsilon": 20.0, "labels": True, "lengths": {"range": [2, 10], "bins": 8}}
BINS = 2 + 10


def answers(folder: Path, manifest: Manifest, example: str, monkeypatch: pytest.MonkeyPatch) -> Party:
    """A site with this example, asked to join, to count twice, and to train."""
    home = folder / example
    party = Party.start(
        home,
        name="north",
        data=write_rows(folder / f"{example}.csv", example),
        coordinator=Coordinator(),
        models={manifest.job.model.source: manifest.job.model.source},
        task="sequence-classification",
    )
    table = tomllib.loads((home / "site.toml").read_text())
    table["rules"]["statistics_epsilon"] = 20.0
    (home / "site.toml").write_text(tomli_w.dumps(table))
    count = pb.Count(manifest_digest=manifest.digest, bins=BINS)
    with monkeypatch.context() as patched:
        patched.setattr(statistics_site, "fresh_entropy", lambda *_: keyed_source(7, "neighbours"))
        for request in (
            pb.Request(join=pb.Join(manifest=manifest.content)),
            pb.Request(count=count),
            pb.Request(count=count),
            pb.Request(train=pb.Train(manifest_digest=manifest.digest, round=1)),
        ):
            reply = pb.Reply.FromString(party.answer(request.SerializeToString()))
            if reply.HasField("counted"):
                party.updates.append(reply.counted.counts)
    return party


def test_one_example_is_in_one_bin_of_each_histogram_and_in_nothing_else_that_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny.job(tmp_path, statistics=ASKED)
    manifest = statistics_manifest(job, run="run", sites=1)
    blank = answers(tmp_path, manifest, "empty", monkeypatch)
    assert [seen["kind"] for seen in blank.seen] == ["joined", "counted", "refused", "refused"]
    (before,) = (METRICS_RING.unpack(counts, size=BINS) for counts in blank.updates)
    there = set[str]()
    for example in EXAMPLES.keys() - {"empty"}:
        party = answers(tmp_path, manifest, example, monkeypatch)
        assert party.seen == blank.seen, example
        assert party.ledger() == blank.ledger(), example
        (counts,) = (METRICS_RING.unpack(counts, size=BINS) for counts in party.updates)
        moved = METRICS_RING.centred(counts - before)
        bins = [histogram[histogram != 0].tolist() for histogram in (moved[:2], moved[2:])]
        assert bins in ([[], []], [[ONE], [ONE]]), example  # what cannot be used is blank as well
        there |= {example} if bins[0] else set()
    assert {"poison", "plain", "another", "one word", "long", "duplicate"} <= there
