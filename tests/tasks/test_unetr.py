"""UNETR, the other network for masks: a gradient an image or volume, sizes, places, and its export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.blocks import UnetrBasicBlock
from opacus.grad_sample import GradSampleHooks

from client.training.gradients import HookedGradients
from privacy.errors import JobError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from simulation.simulate import simulate
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tasks.registry import checked_job, find_task
from tests.client.training.test_per_example_gradients import RELATIVE
from tests.tasks.exported import exported_network
from tests.tasks.networks import MASKS, job_table, write_masks
from tests.tasks.own_gradients import check_own_gradients
from tests.tasks.scans import SCANS, write_scans

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
NOT_PRIVATE = {"privacy": {"mechanism": "none"}, "seeds": {"noise": 1}}
TASKS = {"image-segmentation": (MASKS, write_masks), "volume-segmentation": (SCANS, write_scans)}
# Of thousands of voxels some are nearly 0 before a rectifier, where rounding decides about a slope.
KINKS = 1e-3


def make_job(folder: Path, *, task: str, keys: Any = None, **changes: Any) -> Job:
    usual, write = TASKS[task]
    table = write(folder / "scans.csv")
    every = usual | {"network": "unetr"} | (keys or {})
    return checked_job(parse_job(job_table(task, table, every, **changes)))


def adapt(job: Job) -> AdaptedModel:
    return AdaptedModel(load_base_model(job, labels=(), device=CPU), job=job, device=CPU)


@pytest.mark.parametrize(
    ("task", "keys", "within"),
    [
        ("image-segmentation", {"size": 32}, RELATIVE),
        ("image-segmentation", {"colours": True}, RELATIVE),  # a single patch
        ("volume-segmentation", {"example": "volume"}, KINKS),
    ],
)
def test_the_gradient_of_what_is_protected_is_its_own(
    task: str, keys: dict[str, Any], within: float, tmp_path: Path
) -> None:
    job = make_job(tmp_path, task=task, keys=keys)
    compared = check_own_gradients(lambda: adapt(job), within=within)
    assert isinstance(compared.method, HookedGradients)


@pytest.mark.parametrize(("learned", "serves"), [(False, True), (True, False)])
def test_blocks_whose_norms_learn_have_no_gradients_of_examples(learned: bool, serves: bool) -> None:
    """Why the norms of the convolutions learn nothing: what such a norm gives is changed in its place."""
    block = UnetrBasicBlock(
        spatial_dims=2,
        in_channels=1,
        out_channels=4,
        kernel_size=3,
        stride=1,
        norm_name=("GROUP", {"num_groups": 4, "affine": learned}),
        res_block=True,
    )
    GradSampleHooks(block, loss_reduction="sum")
    values = torch.ones(3, 1, 8, 8)
    if serves:
        block(values).sum().backward()
        assert all(len(vars(p)["grad_sample"]) == 3 for p in block.parameters())
    else:
        with pytest.raises(RuntimeError, match="is being modified inplace"):
            block(values)


@pytest.mark.parametrize("task", TASKS)
def test_all_of_it_is_trained_from_one_start_and_a_blank_row_is_computed(task: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, task=task)
    first, again = adapt(job), adapt(job)
    assert first.model_digest == again.model_digest
    assert first.model_digest != adapt(make_job(tmp_path, task=task, keys={"network": "unet"})).model_digest
    whole = sum(parameter.numel() for parameter in first.base.model.parameters()) // 2  # PEFT's two copies
    assert first.layout.trained_size == whole
    shape = (2, *first.base.reader.shape)
    first.load(first.initial_adapter(0))
    assert not first.peft(torch.ones(shape)).any()
    first.load(first.some_adapter(0))
    assert first.peft(torch.zeros(shape)).isfinite().all()


def test_tokens_know_where_they_are_and_attend_to_one_another(tmp_path: Path) -> None:
    adapted = adapt(make_job(tmp_path, task="image-segmentation", keys={"size": 64}))
    adapted.load(adapted.some_adapter(0))
    network = adapted.peft.eval().get_base_model()
    tokens: list[torch.Tensor] = []
    network.layers[0].register_forward_hook(lambda _module, given, made: tokens.extend([given[0], made]))
    network(torch.full((1, 1, 64, 64), 0.5))
    alike, _ = tokens
    assert len(alike[0].unique(dim=0)) == 16  # sixteen patches that are alike, at different places
    changed = torch.full((1, 1, 64, 64), 0.5)
    changed[..., :16, :16] = -0.5
    network(changed)
    assert not torch.allclose(tokens[3][0, 15], tokens[1][0, 15], atol=1e-4)


@pytest.mark.parametrize("network", ["unet", "unetr"])
def test_the_default_is_the_unet(network: str, tmp_path: Path) -> None:
    usual = checked_job(parse_job(job_table("image-segmentation", tmp_path / "x.csv", MASKS)))
    named = checked_job(
        parse_job(job_table("image-segmentation", tmp_path / "x.csv", MASKS | {"network": network}))
    )
    assert (adapt(usual).model_digest == adapt(named).model_digest) == (network == "unet")


@pytest.mark.parametrize("task", TASKS)
def test_an_export_gives_the_same_logits(task: str, tmp_path: Path) -> None:
    adapted = adapt(make_job(tmp_path, task=task))
    adapted.load(adapted.some_adapter(0))
    pixels = torch.rand(2, *adapted.base.reader.shape)
    expected = adapted.peft.eval()(pixels)
    find_task(task).export(adapted.peft.merge_and_unload(), adapted.base, tmp_path)
    torch.testing.assert_close(exported_network(tmp_path)(pixels), expected)


@pytest.mark.statistics
def test_without_noise_it_learns(tmp_path: Path) -> None:
    training = {
        "rounds": 3,
        "local_steps": 4,
        "batch_size": 16,
        "physical_batch_size": 16,
        "learning_rate": 0.3,
    }
    job = make_job(tmp_path, task="image-segmentation", training=training, **NOT_PRIVATE)
    run = simulate(job, runs=tmp_path / "runs")
    assert run.measures["dice"] > 0.6


@pytest.mark.parametrize(
    ("task", "keys", "words"),
    [
        (
            "image-segmentation",
            {"size": 40},
            'size: expected a multiple of 16 with network="unetr", got 40',
        ),
        ("volume-segmentation", {"size": 24, "extent": [24] * 3}, "size: expected a multiple of 16"),
        ("image-segmentation", {"network": "swin"}, "data.network"),
        ("volume-segmentation", {"network": "swin"}, "data.network"),
    ],
)
def test_sizes_and_networks_that_do_not_fit_are_refused(
    task: str, keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    usual, _ = TASKS[task]
    table = job_table(task, tmp_path / "x.csv", usual | {"network": "unetr"} | keys)
    with pytest.raises(JobError) as told:
        checked_job(parse_job(table))
    assert words in str(told.value)
