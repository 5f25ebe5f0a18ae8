"""A site whose rows have leaves in public trees, which it has where its custodian says."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.agent.site_host import SiteHost
from client.custody.model_sources import local_job
from client.custody.site_file import read_site_file
from client.planning import plan_here
from client.training.recipe import Recipe
from privacy.errors import ModelError, PolicyFileError
from privacy.identity import Identity
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tasks.data.feature_columns import FeatureColumns
from tests.client.agents import SITE, Coordinator, write_site
from tests.tasks.data.tree_texts import ONE_LEAF, TREE, write_trees
from tests.tasks.networks import TABULAR
from tests.tasks.test_tabular_trees import make_job


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(make_job(tmp_path_factory.mktemp("trees"), aggregation={"kind": "none"}))


def joined(home: Path, world: World, *, trees: str | None, later: str | None = None) -> Reply:
    """What a site says to the job, whose trees it has at this place; there is ``later`` once it runs."""
    own, folder = world.job.data.model_extra or {}, Path(world.job.data.source).parent
    (folder / "model").mkdir(exist_ok=True)  # which the site names, too
    coordinator = Coordinator()
    path = write_site(
        home,
        folder,
        coordinator.identity,
        models={} if trees is None else {own["trees"]: trees},
        data={"data": {"task": "tabular", "source": world.job.data.source, **TABULAR}},
    )
    host = SiteHost(home, read_site_file(path), planner=plan_here)
    if trees is not None and later is not None:
        Path(trees).write_text(later)
    opened = open_envelope(
        coordinator.join(world.manifest("run")),
        public_key=coordinator.identity.public,
        sender=COORDINATOR,
        receiver=SITE,
    )
    try:
        return Reply.FromString(host.answer(opened))
    finally:
        host.close()


def test_trees_that_the_custodian_did_not_name_are_refused_with_the_line(
    tmp_path: Path, world: World
) -> None:
    reply = joined(tmp_path / "home", world, trees=None)
    assert "data.trees=" in reply.refused.reason
    assert "add to [models] in site.toml" in reply.refused.reason


def test_statistics_are_counted_by_the_columns_alone(tmp_path: Path, world: World) -> None:
    own, folder = world.job.data.model_extra or {}, Path(world.job.data.source).parent
    (folder / "model").mkdir(exist_ok=True)
    data = {"data": {"task": "tabular", "source": world.job.data.source, **TABULAR}}
    trees = {own["trees"]: str(write_trees(tmp_path / "there.txt"))}
    path = write_site(tmp_path / "home", folder, Identity.generate(), models=trees, data=data)
    host = SiteHost(tmp_path / "home", read_site_file(path), planner=plan_here)
    try:
        (tmp_path / "there.txt").unlink()  # it is read when the site starts, and then by who trains
        found = host.open_rows(world.manifest("run"))
    finally:
        host.close()
    assert isinstance(found.reader, FeatureColumns)
    assert len(found.rows) == 160
    assert found.labels == world.labels


def test_other_trees_are_another_model(tmp_path: Path, world: World) -> None:
    # As many leaves, and so the same network with the same weights: the trees alone are others.
    trees = (TREE, ONE_LEAF, TREE | {"threshold": "0.5 -0.3"})
    reply = joined(tmp_path / "home", world, trees=str(write_trees(tmp_path / "other.txt", trees)))
    assert "the model differs" in reply.refused.reason
    assert "cannot be loaded" not in reply.refused.reason


def test_a_file_that_is_none_is_the_custodians_to_know(tmp_path: Path, world: World) -> None:
    place = tmp_path / "secret.txt"
    place.write_text("what nobody else may read")
    with pytest.raises(PolicyFileError, match=r"models\..*data\.trees: expected a text file"):
        joined(tmp_path / "early", world, trees=str(place))
    write_trees(place)
    reply = joined(tmp_path / "home", world, trees=str(place), later="what nobody else may read")
    assert "cannot be loaded at this site" in reply.refused.reason
    assert "data.trees=" in reply.refused.reason
    assert "secret" not in reply.refused.reason


def test_other_processes_of_the_site_have_them_from_there(tmp_path: Path, world: World) -> None:
    own, there = world.job.data.model_extra or {}, tmp_path / "there.txt"
    local = local_job(world.job, {own["trees"]: str(there)})
    recipe = Recipe(job=world.job, local=local, labels=world.labels, site=SITE)
    with pytest.raises(ModelError, match=r"data\.trees: .* found none at .*there"):
        recipe.make(world.adapted.device)
    write_trees(there)
    assert recipe.make(world.adapted.device).model_digest == world.adapted.model_digest


def test_the_same_trees_elsewhere_are_taken(tmp_path: Path, world: World) -> None:
    same = write_trees(tmp_path / "same.txt")
    reply = joined(tmp_path / "home", world, trees=str(same))
    assert reply.HasField("joined"), reply
