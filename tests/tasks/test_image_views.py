"""Views of an image: what each is, one gradient of all, a trunk that runs once a view, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from confide import audit_run
from privacy.errors import JobError
from protocol.job.adapter_section import no_adapter
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from server.public_features import with_public_features
from simulation.simulate import simulate
from tasks.data.image_views import VIEWS, seen_from
from tasks.label_outcome import LabelOutcome
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.registry import checked_job
from tests.models import random_adapter
from tests.tasks.model.test_frozen_prefix import ROUNDING
from tests.tasks.model.test_frozen_prefix import losses as losses_of
from tests.tasks.model.test_image_base import CPU, save_model
from tests.tasks.networks import IMAGES, job_table, write_images
from tests.tasks.own_gradients import check_own_gradients

TWO = ["mirrored", "moved-up"]


def make_job(folder: Path, *, views: list[str], **changes: Any) -> Job:
    images = write_images(folder / "images", images=60)
    keys = IMAGES | {"colours": True, "views": views} | changes.pop("data", {})
    return checked_job(parse_job(job_table("image-classification", images, keys, **changes)))


def trunk_job(folder: Path, *, views: list[str]) -> Job:
    source = str(save_model(folder, "ConvNextV2"))
    return make_job(folder, views=views, model={"source": source}, strategy={"name": "head"})


def adapt(job: Job) -> AdaptedModel:
    base = load_base_model(job, labels=tuple(IMAGES["labels"]), device=CPU)
    return AdaptedModel(base, job=job, device=CPU)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": ["sideways"]}, "data.views: expected each once of mirrored, upside-down"),
        ({"views": ["mirrored", "mirrored"]}, "data.views: expected each once"),
    ],
)
def test_views_that_are_none_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as told:
        make_job(tmp_path, **changes)
    assert words in str(told.value)


def test_groups_and_other_tasks_have_no_views(tmp_path: Path) -> None:
    grouped = {"privacy": {"unit": "group"}, "data": {"group": "who", "rows_per_group": 2}}
    with pytest.raises(JobError, match=r"data\.views: expected none with privacy\.unit=\"group\""):
        make_job(tmp_path, views=TWO, **grouped)
    keys = IMAGES | {"views": TWO, "features": 4}
    table = job_table("image-anomaly", write_images(tmp_path / "odd"), keys, strategy={"name": "fedit"})
    with pytest.raises(JobError, match=r"data\.views"):
        checked_job(parse_job(table))


def test_each_view_is_what_its_name_says() -> None:
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    found = {name: view(image)[0, 0].tolist() for name, view in VIEWS.items()}
    rows = image[0, 0].tolist()
    black = [0] * 8
    assert found["mirrored"] == [row[::-1] for row in rows]
    assert found["upside-down"] == rows[::-1]
    assert found["turned-left"][0] == [row[-1] for row in rows]  # the right side is on top
    assert found["turned-right"][0] == [row[0] for row in rows[::-1]]
    assert found["moved-up"] == [*rows[1:], black]
    assert found["moved-down"] == [black, *rows[:-1]]
    assert found["moved-left"] == [[*row[1:], 0] for row in rows]
    assert found["moved-right"] == [[0, *row[:-1]] for row in rows]
    assert len(found) == 8


def test_views_follow_their_image() -> None:
    pair = torch.stack([torch.zeros(1, 8, 8), torch.rand(1, 8, 8)])
    found = seen_from(pair, TWO)
    assert found.shape == (6, 1, 8, 8)
    assert not found[:3].any()
    assert torch.equal(found[3], pair[1])
    assert torch.equal(found[4], pair[1].flip(-1))


@pytest.mark.parametrize("trunk", [True, False])
def test_an_image_has_one_gradient_the_mean_over_its_views(trunk: bool, tmp_path: Path) -> None:
    job = trunk_job(tmp_path, views=TWO) if trunk else make_job(tmp_path, views=TWO)
    compared = check_own_gradients(lambda: adapt(job))
    assert compared.method.batched
    reference, examples, found = compared.reference, compared.examples, compared.found
    assert examples.rows_an_example == 3
    batch = examples.batch(np.arange(len(examples)))

    # By hand: each view as an image of its own, and the mean of their gradients.
    reference.peft.eval()
    pixels = seen_from(batch.inputs["values"][:1], TWO)
    parameters = list(reference.trained.items())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters}
    for view in pixels:
        logits = reference.task.logits(
            reference.peft, reference.task.scaled(view[None], reference.base.reader)
        )
        loss = functional.cross_entropy(logits, batch.inputs["labels"][:1])
        for (name, _), part in zip(
            parameters, torch.autograd.grad(loss, [p for _, p in parameters]), strict=True
        ):
            total[name] += part / len(pixels)
    for name, part in total.items():
        torch.testing.assert_close(found[name][0].reshape(part.shape), part, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("focal", [0.0, 2.0])
def test_the_answer_is_of_the_image_itself(focal: float, tmp_path: Path) -> None:
    seen, plain = (adapt(make_job(tmp_path, views=views, data={"focal": focal})) for views in (TWO, []))
    adapter = random_adapter(plain)
    batch = plain.probe().batch(np.arange(3))
    outcomes = []
    for adapted in (seen, plain):
        adapted.load(adapter)
        adapted.peft.eval()
        with torch.no_grad():
            outcomes.append(adapted.forward(replace(batch, rows_an_example=3 if adapted is seen else 1)))
    ours, theirs = outcomes
    assert isinstance(ours, LabelOutcome)
    assert isinstance(theirs, LabelOutcome)
    torch.testing.assert_close(ours.logits, theirs.logits)
    assert not torch.allclose(ours.losses, theirs.losses)
    assert ours.sums() == pytest.approx(theirs.sums())  # what is told, the loss too, is of the image itself


@pytest.mark.parametrize("views", [[], TWO])
def test_focal_loss_is_of_each_view(views: list[str], tmp_path: Path) -> None:
    plain, focal = (adapt(make_job(tmp_path, views=views, data={"focal": power})) for power in (0.0, 2.0))
    adapter = random_adapter(plain)
    batch = replace(plain.probe().batch(np.arange(3)), rows_an_example=1 + len(views))
    for adapted in (plain, focal):
        adapted.load(adapter)
        adapted.peft.eval()
    with torch.no_grad():
        pixels = plain.task.scaled(seen_from(batch.inputs["values"], views), plain.base.reader)
        chances = plain.task.logits(plain.peft, pixels).softmax(1).reshape(3, 1 + len(views), -1)
        labels = batch.inputs["labels"][:, None, None].expand(-1, 1 + len(views), 1)
        right = chances.gather(2, labels)[:, :, 0]
        torch.testing.assert_close(plain.forward(batch).losses, -right.log().mean(1))
        torch.testing.assert_close(focal.forward(batch).losses, ((1 - right) ** 2 * -right.log()).mean(1))


def test_public_images_are_measured_as_they_are(tmp_path: Path) -> None:
    public = write_images(tmp_path / "public", images=120)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(public.rglob("*.png"))):
        path.rename(flat / f"{number:03d}.png")
    found = []
    for views in (TWO, []):
        table = trunk_job(tmp_path, views=views).model_dump(mode="json")
        table["model"]["features"] = str(flat)
        adapted = adapt(checked_job(parse_job(table)))
        first = adapted.initial_adapter(0)
        found.append(with_public_features(first, adapted, place=str(flat)))
    seen, plain = found
    assert not np.array_equal(plain, first)
    np.testing.assert_allclose(seen, plain, rtol=1e-4, atol=1e-6)


def test_a_trunk_runs_once_an_image_and_view(tmp_path: Path) -> None:
    adapted = adapt(trunk_job(tmp_path, views=TWO))
    assert adapted.spec.adapter == no_adapter()
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    examples = adapted.probe()
    plain = losses_of(adapted, examples, None)
    kept = Activations(FrozenPrefix(adapted), examples)
    assert kept.work
    rows: list[int] = []
    trunk = adapted.peft.get_base_model().base_model
    trunk.register_forward_pre_hook(lambda _, args, kwargs: rows.append(1), with_kwargs=True)
    first = losses_of(adapted, examples, kept)
    assert rows
    rows.clear()
    again = losses_of(adapted, examples, kept, size=2)
    np.testing.assert_allclose(first, plain, rtol=ROUNDING)
    np.testing.assert_allclose(again, plain, rtol=ROUNDING)
    assert not rows
    assert np.ptp(plain) > 0


def test_a_run_under_masks_learns_of_views_and_its_audit_agrees(tmp_path: Path) -> None:
    runs = [
        simulate(make_job(tmp_path, views=views), runs=tmp_path / "runs", name=name)
        for name, views in (("seen", TWO), ("plain", []))
    ]
    seen, plain = runs
    assert seen.rounds[-1].loss != plain.rounds[-1].loss
    audit_run(seen.folder, ledgers=[seen.folder / "sites" / "site-1"])
