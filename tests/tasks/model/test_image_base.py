"""transformers' image classifiers: exact gradients, stock transformers' own logits, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from PIL import Image

from privacy.errors import JobError, ModelError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.data.image_files import ImageShape
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel, load_base_model
from tasks.model.device import Device
from tasks.model.drawn_network import load_drawn
from tasks.model.image_network import ImageNetwork
from tasks.registry import checked_job
from tests.tasks.networks import IMAGES, job_table, write_images
from tests.tasks.own_gradients import check_own_gradients

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
TWO_LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PLACE = {"image_size": 16, "patch_size": 4, "num_channels": 3}
# By family: its class, its config, and the layers that carry LoRA.
FAMILIES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "ViT": ("ViT", TWO_LAYERS | PLACE, ["q_proj", "v_proj"]),
    "Dinov2": ("Dinov2", TWO_LAYERS | PLACE, ["q_proj", "v_proj"]),
    "ConvNextV2": (
        "ConvNextV2",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "num_channels": 3, "patch_size": 4},
        ["pwconv1"],
    ),
    "Swin": (
        "Swin",
        PLACE | {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2},
        ["q_proj", "v_proj"],
    ),
    # Its norms are over a batch: they stay as they were saved.
    "ResNet": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        ["convolution"],
    ),
    "EfficientNet": (
        "EfficientNet",
        {
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            "hidden_dim": 1280,
            "initializer_range": 0.5,
            "in_channels": [32, 8],
            "out_channels": [8, 16],
            "kernel_sizes": [3, 3],
            "strides": [1, 2],
            "expand_ratios": [1, 2],
            "num_block_repeats": [1, 1],
        },
        ["top_conv"],
    ),
}
SCALE = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}


def save_model(folder: Path, family: str, *, scale: dict[str, Any] | None = None, **changes: Any) -> Path:
    name, config, _ = FAMILIES[family]
    kind = getattr(transformers, f"{name}ForImageClassification")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(getattr(transformers, f"{name}Config")(**config | changes, num_labels=5))
    model.save_pretrained(folder / family)
    (folder / family / "preprocessor_config.json").write_text(json.dumps(SCALE if scale is None else scale))
    return folder / family


def make_job(folder: Path, family: str, *, saved: dict[str, Any] | None = None, **changes: Any) -> Job:
    sections = {
        "model": {"source": str(save_model(folder, family, **(saved or {})))},
        "adapter": {"rank": 2, "target_modules": FAMILIES[family][2]},
    }
    images = write_images(folder / "images", images=40)
    keys = IMAGES | {"colours": True} | changes.pop("data", {})
    return checked_job(parse_job(job_table("image-classification", images, keys, **sections | changes)))


def load(job: Job) -> BaseModel:
    return load_base_model(job, labels=tuple(IMAGES["labels"]), device=CPU)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.exhaustive(but=2)
def test_an_images_gradient_is_its_own(family: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, family)
    compared = check_own_gradients(lambda: AdaptedModel(load(job), job=job, device=CPU))
    # Swin's attention sees a row for each window: an image is computed by itself.
    assert compared.method.batched == (family != "Swin")


def test_a_run_is_exported_as_stock_transformers_and_peft_load_it(tmp_path: Path) -> None:
    job = make_job(tmp_path, "ViT")
    run = simulate(job, runs=tmp_path / "runs")
    folder = RunFolder.open(run.folder)
    export_merged(folder, tmp_path / "merged")
    export_adapter(folder, tmp_path / "adapter")

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "merged")
    values = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    merged = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    assert [merged.config.id2label[number] for number in range(2)] == IMAGES["labels"]

    adapted = AdaptedModel(load(job), job=job, device=CPU)
    adapted.load(folder.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    ours = torch.from_numpy(ImageShape(size=16, colours=True).scaled(pixels))[None]
    scaled = adapted.task.scaled(ours, adapted.base.reader)
    torch.testing.assert_close(scaled, values, atol=1e-6, rtol=1e-5)
    expected = adapted.task.logits(adapted.peft, scaled)
    assert expected.abs().max() > 0
    torch.testing.assert_close(merged(values).logits, expected, atol=1e-5, rtol=1e-4)

    loaded = peft.PeftModel.from_pretrained(load(job).model, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(values).logits, expected, atol=1e-5, rtol=1e-4)


def test_the_scale_is_the_models_own_and_in_its_digest(tmp_path: Path) -> None:
    first = load(make_job(tmp_path / "a", "ViT"))
    plain = load(make_job(tmp_path / "b", "ViT", saved={"scale": {"do_normalize": False}}))
    assert (first.reader.mean, first.reader.deviation) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert (plain.reader.mean, plain.reader.deviation) == ((0.0,) * 3, (1.0,) * 3)
    assert first.digest != plain.digest


@pytest.mark.parametrize(
    ("saved", "data", "words"),
    [
        ({}, {"size": 32}, "data.size=32: expected 16, which the model was made for"),
        ({}, {"colours": False}, "data.colours: expected true: this model reads 3 channels"),
        ({"scale": {"rescale_factor": 1.0}}, {}, "expected pixels from 0 to 1"),
        ({"scale": {"image_std": [0.0, 1.0, 1.0]}}, {}, "positive image_std"),
    ],
)
def test_what_does_not_fit_is_refused(
    saved: dict[str, Any], data: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as told:
        load(make_job(tmp_path, "ViT", saved=saved, data=data))
    assert words in str(told.value)


def test_a_model_for_texts_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, "ViT")
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "text")
    model = job.model.model_copy(update={"source": str(tmp_path / "text")})
    with pytest.raises(ModelError, match="no image classifier for 'bert'"):
        load(job.model_copy(update={"model": model}))


def test_layers_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"adapter\.target_modules: expected names of layers"):
        make_job(tmp_path, "ViT", adapter={})


def test_what_a_drawn_network_passes_on_is_in_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn() -> BaseModel:
        return load_drawn(
            lambda: ImageNetwork(channels=1, labels=["a"], width=4, parts=1),
            seed=0,
            last="classifier",
            reads={},
            reader=None,
        )

    class Former(ImageNetwork):
        def __init__(self, **keys: Any) -> None:
            super().__init__(**keys)
            del self.made_of["passes_on"]

    now = drawn().digest
    assert now == drawn().digest
    monkeypatch.setitem(globals(), "ImageNetwork", Former)
    assert drawn().digest != now
    with pytest.raises(ValueError, match='passes_on: expected "tanh", got "relu"'):
        ImageNetwork(channels=1, labels=["a"], width=4, parts=1, passes_on="relu")
