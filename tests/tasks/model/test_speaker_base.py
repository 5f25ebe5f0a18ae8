"""A frozen encoder of voices: what it hears is what NumPy makes of a sound, and a head on it is trained."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from confide import audit_run
from privacy.errors import JobError, ModelError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel, load_base_model
from tasks.model.frozen_prefix import FrozenPrefix
from tasks.model.speaker_folder import is_speaker_encoder
from tasks.model.speaker_network import SpeakerNetwork, count_parts
from tasks.registry import checked_job, has_own_program
from tests.models import random_adapter
from tests.tasks.exported import exported_network
from tests.tasks.networks import SOUNDS, job_table, write_sounds
from tests.tasks.own_gradients import check_own_gradients
from tests.tasks.test_network_task import CPU

EXAMPLE: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "speaker_encoder.py"))
Weights: TypeAlias = dict[str, NDArray[np.float64]]
Sound: TypeAlias = NDArray[np.float64]


def drawn_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors by the package's names, with which some of what is linear is above zero."""
    random, found = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()
    for layer in range(3):
        for name, width in {"ih": 256 if layer else 40, "hh": 256}.items():
            found[f"lstm.weight_{name}_l{layer}"] = torch.randn(1024, width, generator=random) / 8
            found[f"lstm.bias_{name}_l{layer}"] = torch.randn(1024, generator=random) / 8
    found["linear.weight"] = torch.randn(256, 256, generator=random) / 8
    found["linear.bias"] = torch.randn(256, generator=random) / 8
    return found


def save_encoder(folder: Path) -> Path:
    beside = {"similarity_weight": torch.ones(1), "similarity_bias": torch.ones(1)}
    EXAMPLE["write"](drawn_weights() | beside, folder / "encoder")
    return folder / "encoder"


def make_job(folder: Path, *, source: Path | None = None, keys: Any = None, **changes: Any) -> Job:
    sounds = write_sounds(folder / "sounds", sounds=24)
    asked = SOUNDS | {"rate": 16_000} | (keys or {})
    table = job_table("audio-classification", sounds, asked, **({"strategy": {"name": "head"}} | changes))
    table["model"] = {"source": str(source or save_encoder(folder))} | changes.get("model", {})
    return checked_job(parse_job(table))


def load(job: Job) -> BaseModel:
    return load_base_model(job, labels=tuple(SOUNDS["labels"]), device=CPU)


def adapt(job: Job) -> AdaptedModel:
    return AdaptedModel(load(job), job=job, device=CPU)


# What follows is Resemblyzer 0.1.4's ``embed_utterance`` of one sound, and librosa's spectrum, in NumPy.


def reference_bands() -> NDArray[np.float64]:
    def to_hertz(mel: float) -> float:
        return 200 / 3 * mel if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    highest = 15 + 27 * np.log(8) / np.log(6.4)  # of 8,000 hertz
    corners = [to_hertz(mel) for mel in np.linspace(0, highest, 42)]
    found = np.zeros((40, 201))
    for band in range(40):
        left, middle, right = corners[band : band + 3]
        for point in range(201):
            hertz = 40.0 * point
            rise, fall = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
            found[band, point] = 2 / (right - left) * max(0.0, min(rise, fall))
    return found


def reference_spectrum(sound: Sound) -> NDArray[np.float64]:
    """Power by frame and band, [frames, 40]."""
    padded = np.concatenate([np.zeros(200), sound, np.zeros(200)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    starts = range(0, len(padded) - 399, 160)
    waves = np.array([np.fft.rfft(window * padded[start : start + 400]) for start in starts])
    found: NDArray[np.float64] = (np.abs(waves) ** 2) @ reference_bands().T
    return found


def reference_states(parts: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """What the LSTM's last layer says of each part's last frame, [parts, 256], of [parts, frames, 40]."""
    frames = parts.swapaxes(0, 1)
    for layer in range(3):
        state, memory, passed = np.zeros((len(parts), 256)), np.zeros((len(parts), 256)), []
        for frame in frames:
            gates = weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"]
            gates = gates + frame @ weights[f"lstm.weight_ih_l{layer}"].T
            gates = gates + state @ weights[f"lstm.weight_hh_l{layer}"].T
            let, kept, new, told = np.split(gates, 4, axis=1)
            let, kept, told = (1 / (1 + np.exp(-gate)) for gate in (let, kept, told))
            memory = kept * memory + let * np.tanh(new)
            state = told * np.tanh(memory)
            passed.append(state)
        frames = np.array(passed)
    return state


def reference_voice(sound: Sound, weights: Weights) -> NDArray[np.float64]:
    loud = np.sqrt(np.mean(sound**2))
    sound = sound * max(1.0, 10 ** (-30 / 20) / loud)
    frames, step = int(np.ceil((len(sound) + 1) / 160)), int(np.round(16_000 / 1.3 / 160))
    starts = list(range(0, max(1, frames - 160 + step + 1), step))
    if len(starts) > 1 and (len(sound) - 160 * starts[-1]) / (160 * 160) < 0.75:
        starts.pop()
    end = 160 * (starts[-1] + 160)
    heard = reference_spectrum(np.pad(sound, (0, max(0, end - len(sound)))))
    last = reference_states(np.array([heard[start : start + 160] for start in starts]), weights)
    told = np.maximum(last @ weights["linear.weight"].T + weights["linear.bias"], 0)
    mean = np.mean(told / np.linalg.norm(told, axis=1, keepdims=True), axis=0)
    found: NDArray[np.float64] = mean / np.linalg.norm(mean)
    return found


def some_sounds(lengths: list[int]) -> list[Sound]:
    """Noise of several colours, the first one quiet."""
    random = np.random.default_rng(0)
    found = []
    for number, length in enumerate(lengths):
        white = random.standard_normal(length)
        coloured = np.convolve(white, np.ones(1 + number) / (1 + number), mode="same")
        samples = np.rint(32768 * (0.002 if number == 0 else 0.1) * coloured)
        samples[-1] = 1.0  # ends there
        found.append(np.clip(samples, -32768, 32767) / 32768)
    return found


def test_voices_are_what_numpy_makes_of_each_sound_by_itself() -> None:
    lengths = [4000, 30_000, 37_500, 48_000]  # one part, one, two, and three
    sounds, weights = some_sounds(lengths), drawn_weights()
    network = SpeakerNetwork(labels=["a", "b"]).eval()
    network.load_state_dict(weights, strict=False)
    values = torch.zeros(len(sounds), 48_000)
    for row, sound in zip(values, sounds, strict=True):
        row[: len(sound)] = torch.from_numpy(sound)
    assert count_parts(torch.tensor(lengths)).tolist() == [1, 1, 2, 3]
    with torch.no_grad():
        found = network.voices(values).double().numpy()
    exact = {name: tensor.double().numpy() for name, tensor in weights.items()}
    expected = np.array([reference_voice(sound, exact) for sound in sounds])
    assert np.abs(expected[0] - expected[1]).max() > 0.05  # so that the tolerance tells something
    # Two hundred steps of float32 beside float64.
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_silence_behind_a_sound_changes_nothing_and_silence_alone_is_a_number() -> None:
    network = SpeakerNetwork(labels=["a", "b"]).eval()
    network.load_state_dict(drawn_weights(), strict=False)
    (sound,) = some_sounds([20_000])
    values = torch.zeros(2, 60_000)
    values[0, :20_000] = torch.from_numpy(sound)
    with torch.no_grad():
        longer, alone = network.voices(values), network.voices(values[:1, :20_000])
    torch.testing.assert_close(longer[:1], alone, atol=1e-5, rtol=0)
    assert longer.isfinite().all()
    torch.testing.assert_close(longer.norm(dim=1), torch.ones(2))


def test_what_a_head_reads_is_not_rounded_with_the_rest() -> None:
    network = SpeakerNetwork(labels=["a", "b"]).eval()
    network.load_state_dict(drawn_weights(), strict=False)
    values, read = torch.from_numpy(some_sounds([8000])[0]).float()[None, None], list[torch.Tensor]()
    network.classifier.register_forward_pre_hook(lambda _module, args: read.append(args[0]))
    with torch.no_grad():
        network(values)
        with torch.autocast("cpu", torch.bfloat16):
            assert network(values).dtype == torch.bfloat16
    assert torch.equal(read[0], read[1])


def test_an_examples_gradient_is_its_own_and_the_encoder_is_run_once(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    compared = check_own_gradients(lambda: adapt(job))
    adapted = compared.adapted
    assert {slot.name.removeprefix("base_model.model.") for slot in adapted.layout.slots} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert adapted.layout.update_size == 2 * 256 + 2
    kept = FrozenPrefix(adapted).kept_as
    assert kept == (256, torch.float32)


def test_a_run_is_exported_with_the_same_logits(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    folder = RunFolder.open(simulate(job, runs=tmp_path / "runs").folder)
    audit_run(folder.path, ledgers=[folder.path / "sites" / "site-1"])
    adapted = adapt(job)
    adapted.load(folder.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    values = adapted.task.scaled(torch.from_numpy(adapted.probe().arrays["values"]), adapted.base.reader)
    expected = adapted.task.logits(adapted.peft, values)
    assert expected.abs().max() > 0

    export_merged(folder, tmp_path / "merged")
    torch.testing.assert_close(exported_network(tmp_path / "merged")(values), expected)
    told = json.loads((tmp_path / "merged" / "network.json").read_text())
    assert told["made_of"] == {"labels": SOUNDS["labels"]}
    assert "The folder's own program loads it" in (tmp_path / "merged" / "README.md").read_text()
    assert has_own_program(job)
    (tmp_path / "encoder").rename(tmp_path / "moved")
    assert not has_own_program(job)
    assert has_own_program(job, source=str(tmp_path / "moved"))
    export_adapter(folder, tmp_path / "adapter")  # no model is needed for it, nor to know how it is loaded
    assert "PeftModel" not in (tmp_path / "adapter" / "README.md").read_text()
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys() == {
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
    }


def test_its_digest_holds_weights_and_length(tmp_path: Path) -> None:
    job, digests = make_job(tmp_path), set()
    digests.add(load(job).digest)
    assert load(job).digest in digests
    EXAMPLE["write"](drawn_weights(1), tmp_path / "encoder")
    digests.add(load(job).digest)
    digests.add(load(make_job(tmp_path, keys={"seconds": 0.5})).digest)
    assert len(digests) == 3


def test_a_random_head_is_not_where_training_begins(tmp_path: Path) -> None:
    adapted = adapt(make_job(tmp_path))
    assert not adapted.initial_adapter(0).any()
    before = torch.random.get_rng_state()
    load(make_job(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert random_adapter(adapted).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keys": {"rate": 8_000}}, "data.rate=8000: expected 16000, which the model was made for"),
        (
            {"adapter": {"target_modules": ["linear"]}, "strategy": {"name": "fedit"}},
            "adapter: expected no such section with an encoder of voices",
        ),
        ({"model": {"head": "checkpoint"}}, 'model.head: expected "new"'),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as told:
        load(make_job(tmp_path, **changes))
    assert words in str(told.value)


def test_its_layers_are_not_computed_again_and_do_not_wait(tmp_path: Path) -> None:
    job = make_job(tmp_path, model={"checkpointing": True})
    with pytest.raises(ModelError, match=r"model\.checkpointing: expected false with this model"):
        adapt(job)
    with pytest.raises(ModelError, match=r"device\.offload: expected false with this model"):
        AdaptedModel(load(job), job=make_job(tmp_path), device=replace(CPU, offload=True))


def test_another_rule_needs_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"adapter\.target_modules: expected"):
        make_job(tmp_path, strategy={"name": "fedit"})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lstm.weight_ih_l0": torch.zeros(1024, 41)}, "lstm.weight_ih_l0: expected float32 of [1024, 40]"),
        ({"linear.bias": torch.zeros(256, dtype=torch.float64)}, "got F64 of [256]"),
        ({"lstm.weight_ih_l3": torch.zeros(1024, 256)}, "got otherwise for 'lstm.weight_ih_l3'"),
        ({"linear.bias": None}, "got otherwise for 'linear.bias'"),
        ({"linear.bias": torch.full((256,), torch.nan)}, "with numbers that are not finite"),
        ({"linear.weight": torch.full((256, 256), 3e38)}, "with numbers that are not finite"),
        ({"linear.bias": torch.full((256,), -100.0)}, "with which nothing is heard"),
    ],
)
def test_other_weights_are_refused(
    changed: dict[str, torch.Tensor | None], words: str, tmp_path: Path
) -> None:
    job = make_job(tmp_path)
    tensors = {name: one for name, one in (drawn_weights() | changed).items() if one is not None}
    save_file(tensors, tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(ModelError) as told:
        load(job)
    assert words in str(told.value)


def test_damaged_weights_and_pickles_are_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    weights = tmp_path / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.safetensors could not be loaded"):
        load(job)
    weights.unlink()
    torch.save(drawn_weights(), tmp_path / "encoder" / "pretrained.pt")
    with pytest.raises(ModelError, match=r"model\.safetensors could not be loaded"):
        load(job)


@pytest.mark.parametrize("config", ["", "[]", "{", '{"model_type": "wav2vec2"}', "[" * 5000])
def test_another_folder_is_no_encoder(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    assert not is_speaker_encoder(str(tmp_path))
    assert not is_speaker_encoder(str(tmp_path / "none"))
    assert not is_speaker_encoder("package:none/weights")
