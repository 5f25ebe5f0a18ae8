"""Runs whose sites keep something: it stays there, lasts, and nothing of it is in what is sent."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from client.local_round import begin_round
from client.site import Site
from privacy.errors import JobError, ModelError
from protocol.job.layout import AdapterLayout
from protocol.messages import confide_pb2 as pb
from protocol.messages.vector import from_bytes, to_bytes
from runs.run import Run
from runs.run_folder import RunFolder
from simulation.simulate import resume, simulate
from simulation.simulated_federation import World
from tests import tiny
from tests.client.sites import join, train

FEDSA = {"strategy": {"name": "fedsa"}, "seeds": {"noise": 5}}
SCAFFOLD = {"strategy": {"name": "scaffold"}, "seeds": {"noise": 5}}
HEAD = {"strategy": {"name": "ffa", "keep_local": "head"}, "seeds": {"noise": 5}}
KEPT = [FEDSA, SCAFFOLD, HEAD]
MASKS = {"aggregation": {"kind": "masks"}}


def name_of(job: dict[str, Any]) -> str:
    return str(job["strategy"]["name"])


each = pytest.mark.parametrize("changes", KEPT, ids=name_of)


def adapter(run: Run, layout: AdapterLayout) -> NDArray[np.float32]:
    return RunFolder.open(run.folder).load_adapter(len(run.rounds), layout)


def kept(folder: Path) -> dict[str, dict[str, NDArray[np.float32]]]:
    """What each site's home has kept."""
    return {path.parts[-3]: load_file(path) for path in sorted(folder.glob("sites/*/local/*.safetensors"))}


@pytest.mark.exhaustive(but=1)
@each
def test_each_site_keeps_its_own_and_sums_are_what_they_are(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = tiny.job(tiny_folder, **changes)
    layout = World(job).adapted.layout
    plain = simulate(job, runs=tmp_path, name="plain")
    masked = simulate(tiny.job(tiny_folder, **changes, **MASKS), runs=tmp_path, name="masked")
    found = adapter(plain, layout)
    # With 32 bits a coordinate is rounded to 2^-31 of its reach: 64 · η · K · C = 256, three times.
    np.testing.assert_allclose(adapter(masked, layout), found, atol=1e-5)
    sites = kept(plain.folder)
    assert set(sites) == {"site-1", "site-2", "site-3"}
    name = "variate" if changes is SCAFFOLD else "local"
    own = [tensors[f"after/{name}"] for tensors in sites.values()]
    assert all(not np.array_equal(one, other) for one, other in pairwise(own))
    for record in plain.rounds:  # a receipt and a head beside the update
        assert 0 < record.bytes_up - 3 * 4 * layout.update_size < 3 * 800


@pytest.mark.exhaustive(but=1)
@each
def test_what_stays_at_a_site_is_at_the_coordinator_as_it_was_drawn(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = tiny.job(tiny_folder, **changes, training={"rounds": 2})
    world = World(job)
    layout = world.adapted.layout
    run = simulate(job, runs=tmp_path)
    found, start = adapter(run, layout), world.initial_adapter
    assert np.array_equal(layout.local_part(found), layout.local_part(start))
    assert layout.change(start, found).any()


@pytest.mark.exhaustive
@each
def test_a_run_goes_on_where_its_sites_were(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as the coordinator writes round 2: the sites have trained it, and train it again."""
    job = tiny.job(tiny_folder, **changes)
    layout = World(job).adapted.layout
    whole = simulate(job, runs=tmp_path, name="whole")

    class Killed(BaseException):
        pass

    finish = RunFolder.finish_round

    def killed(folder: RunFolder, record: Any, *rest: Any) -> None:
        if record.round == 2:
            raise Killed
        finish(folder, record, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_round", killed)
        with pytest.raises(Killed):
            simulate(job, runs=tmp_path, name="run")
    again = resume(tmp_path / "run")
    assert np.array_equal(adapter(again, layout), adapter(whole, layout))
    assert again.epsilon == whole.epsilon


def site_of(world: World, home: Path) -> Site:
    return world.site("site-1", home=home / "site-1")


def test_a_site_asked_twice_for_a_round_answers_with_the_same_update(
    tiny_folder: Path, tmp_path: Path
) -> None:
    world = World(tiny.job(tiny_folder, **FEDSA))
    manifest = world.manifest("run")
    site = site_of(world, tmp_path)
    join(site, manifest)
    first = train(site, manifest, world, 1)
    second = train(site, manifest, world, 2)
    assert train(site, manifest, world, 2).trained.update == second.trained.update
    # Another process, which finds the state of before round 2 on the disk.
    other = site_of(world, tmp_path)
    assert train(other, manifest, world, 2).trained.update == second.trained.update
    assert first.trained.update != second.trained.update


def test_a_site_that_has_lost_what_it_kept_begins_as_the_first_round_does(
    tiny_folder: Path, tmp_path: Path
) -> None:
    world = World(tiny.job(tiny_folder, **FEDSA))
    manifest = world.manifest("run")
    site = site_of(world, tmp_path)
    join(site, manifest)
    train(site, manifest, world, 1)
    session = site._session
    assert session is not None
    request = pb.Train(round=2, adapter=to_bytes(world.initial_adapter))
    assert not np.array_equal(begin_round(session, request).adapter, world.initial_adapter)
    (tmp_path / "site-1" / "local" / f"{manifest.digest.hex()}.safetensors").unlink()
    assert np.array_equal(begin_round(session, request).adapter, world.initial_adapter)


@pytest.mark.exhaustive(but=1)
@each
def test_a_drawn_site_finds_what_it_kept(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    if changes is SCAFFOLD:
        with pytest.raises(JobError, match=r"federation\.cohort: expected none"):
            tiny.job(tiny_folder, **changes, federation={"sites": 3, "cohort": 2})
        return
    job = tiny.job(tiny_folder, **changes, federation={"sites": 3, "cohort": 2})
    run = simulate(job, runs=tmp_path)
    files = sorted(path.name for path in (run.folder / "sites" / "local").iterdir())
    assert files == ["site-1.safetensors", "site-2.safetensors", "site-3.safetensors"]
    assert not list((run.folder / "sites").glob("site-*"))


def test_a_run_that_keeps_nothing_writes_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    run = simulate(tiny.job(tiny_folder, training={"rounds": 1}), runs=tmp_path)
    assert kept(run.folder) == {}


@pytest.mark.exhaustive
def test_local_tensors_are_noised_and_charged_as_those_that_are_sent(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """One clipping norm over all of them: with what stays, a run costs what it costs without."""
    sent = simulate(tiny.job(tiny_folder, strategy={"name": "lora"}), runs=tmp_path, name="sent")
    stays = simulate(tiny.job(tiny_folder, strategy={"name": "fedsa"}), runs=tmp_path, name="stays")
    assert stays.epsilon == sent.epsilon
    # Two steps of noise alone, at another seed each: nothing of B is the same in two runs.
    other = simulate(tiny.job(tiny_folder, strategy={"name": "fedsa"}), runs=tmp_path, name="other")
    pairs = zip(kept(stays.folder).values(), kept(other.folder).values(), strict=True)
    for one, another in pairs:
        assert (one["after/local"] != another["after/local"]).all()


def test_keeping_all_or_what_there_is_not_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(JobError, match="keep_local"):
        tiny.job(tiny_folder, strategy={"name": "ffa", "keep_local": "b"})
    from tests.models import CASES

    with pytest.raises(ModelError, match=r"strategy\.keep_local: expected \"nothing\""):
        CASES["llama-qv"].adapted(strategy={"name": "ffa", "keep_local": "head"})


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"training": {"optimizer": "adam", "learning_rate": 0.01}}, "training.optimizer"),
        ({"training": {"proximal": 0.1}}, "training.proximal"),
        ({"compression": {"kind": "random"}}, "compression.kind"),
    ],
)
def test_what_has_no_mean_gradient_has_no_variate(
    tiny_folder: Path, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(JobError, match=key):
        tiny.job(tiny_folder, strategy={"name": "scaffold"}, **changes)


def test_the_mean_of_a_round_goes_out_with_the_next(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny.job(tiny_folder, **SCAFFOLD, training={"rounds": 2})
    world = World(job)
    layout, seen = world.adapted.layout, dict[int, set[bytes]]()
    prepare = Site.prepare

    def watched(site: Site, request: pb.Request, **rest: Any) -> Any:
        seen.setdefault(request.train.round, set()).add(request.train.beside)
        return prepare(site, request, **rest)

    monkeypatch.setattr(Site, "prepare", watched)
    run = simulate(job, runs=tmp_path)
    folder = RunFolder.open(run.folder)
    assert seen[1] == {b""}
    (beside,) = seen[2]
    first = layout.change(world.initial_adapter, folder.load_adapter(1, layout))
    # The adapter has moved by it: one float32 addition.
    np.testing.assert_allclose(from_bytes(beside, size=layout.update_size), first, atol=1e-6)
