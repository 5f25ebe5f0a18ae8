"""Which device a job's name means on a machine, without a GPU here."""

from __future__ import annotations

import pytest
import torch

from privacy.errors import JobError, UserError
from protocol.job.job import DeviceSection
from tasks.model.device import Device, choose_device, whole_on
from tests.models import make_job


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A machine with so many GPUs."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


def chosen(name: str) -> torch.device:
    return choose_device(DeviceSection(name=name, precision="float32", threads=1)).torch


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:01", "cuda:100", "cpu:0", ""])
def test_what_is_no_device_is_refused_when_the_job_is_read(name: str) -> None:
    with pytest.raises(JobError, match=r'device\.name: expected "auto", .* or a GPU by its number'):
        make_job(targets=["q_proj"], device={"name": name})


@pytest.mark.parametrize(
    ("name", "count", "here"),
    [("cuda:1", 0, "cpu"), ("cuda", 0, "cpu"), ("cuda:2", 2, "cpu, cuda, cuda:0, cuda:1")],
)
def test_an_absent_device_is_refused_with_those_that_are_here(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int, here: str
) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(UserError, match=f"device.name='{name}': .* no such device: .* one of {here}$"):
        chosen(name)


def test_the_second_gpu_is_the_second_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert chosen("cuda:1") == torch.device("cuda", 1)
    assert chosen("cuda") == torch.device("cuda")
    assert chosen("auto") == torch.device("cuda")
    second = choose_device(DeviceSection(name="cuda:1", precision="float32", threads=1))
    assert str(second) == "cuda:1, float32"
    here = DeviceSection(name="cuda", precision="float32", threads=1)
    assert whole_on(here) == here
    offloaded = whole_on(here.model_copy(update={"offload": True}))
    assert choose_device(offloaded) == Device(torch=torch.device("cpu"), bfloat16=False)
    gpus(monkeypatch, 0)
    assert chosen("auto") == torch.device("cpu")
