"""transformers' classifiers of samples: exact gradients, stock transformers' own logits, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers

from privacy.errors import ModelError
from protocol.job.job import Job
from protocol.job.job_file import parse_job
from runs.export import export_adapter, export_merged
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel, load_base_model
from tasks.model.device import Device
from tasks.registry import checked_job
from tests.tasks.networks import SOUNDS, job_table, write_sounds
from tests.tasks.own_gradients import check_own_gradients

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 8],
    "conv_stride": [5, 8],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "vocab_size": 5,
}
# By family: the layers that carry LoRA.
FAMILIES = {
    "Wav2Vec2": ["q_proj", "v_proj"],
    "Hubert": ["q_proj", "v_proj"],
    "WavLM": ["intermediate_dense"],
}
SCALE = {"do_normalize": True, "sampling_rate": 8000, "feature_size": 1, "padding_value": 0.0}


def save_model(folder: Path, family: str = "Wav2Vec2", **changes: Any) -> Path:
    kind = getattr(transformers, f"{family}ForSequenceClassification")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(getattr(transformers, f"{family}Config")(**SMALL, num_labels=3))
    model.save_pretrained(folder / family)
    (folder / family / "preprocessor_config.json").write_text(json.dumps(SCALE | changes))
    return folder / family


def save_whisper(folder: Path, *, table: bool = True, **changes: Any) -> Path:
    """A model that hears one second, as a hundred frames of its spectrum."""
    sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    sizes |= {"num_hidden_layers": 2, "max_source_positions": 50, "num_mel_bins": 20}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 9}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.WhisperConfig(**sizes, **tokens, classifier_proj_size=8, num_labels=3)
        model = transformers.WhisperForAudioClassification(config)
    model.save_pretrained(folder / "whisper")
    if table:
        heard = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 20}
        heard |= {"chunk_length": 1, "sampling_rate": 16_000, "n_fft": 400, "hop_length": 160}
        (folder / "whisper" / "preprocessor_config.json").write_text(json.dumps(heard | changes))
    return folder / "whisper"


def make_job(
    folder: Path, source: Path, *, targets: list[str] = FAMILIES["Wav2Vec2"], sounds: int = 30, **keys: Any
) -> Job:
    sections = {
        "model": {"source": str(source)},
        "adapter": {"rank": 2, "target_modules": targets},
    }
    data = write_sounds(folder / "sounds", sounds=sounds)
    keys = SOUNDS | keys
    return checked_job(parse_job(job_table("audio-classification", data, keys, **sections)))


def load(job: Job) -> BaseModel:
    return load_base_model(job, labels=tuple(SOUNDS["labels"]), device=CPU)


@pytest.mark.parametrize("family", [*FAMILIES, "Whisper"])
def test_a_sounds_gradient_is_its_own(family: str, tmp_path: Path) -> None:
    if family == "Whisper":
        job = make_job(tmp_path, save_whisper(tmp_path), sounds=4, rate=16_000)
    else:
        job = make_job(tmp_path, save_model(tmp_path, family), targets=FAMILIES[family], sounds=4)
    check_own_gradients(lambda: AdaptedModel(load(job), job=job, device=CPU))


def test_a_run_is_exported_as_stock_transformers_and_peft_load_it(tmp_path: Path) -> None:
    job = make_job(tmp_path, save_model(tmp_path))
    run = simulate(job, runs=tmp_path / "runs")
    folder = RunFolder.open(run.folder)
    export_merged(folder, tmp_path / "merged")
    export_adapter(folder, tmp_path / "adapter")

    adapted = AdaptedModel(load(job), job=job, device=CPU)
    adapted.load(folder.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    samples = adapted.probe().arrays["values"][:1]
    scaled = adapted.task.scaled(torch.from_numpy(samples), adapted.base.reader)
    expected = adapted.task.logits(adapted.peft, scaled)
    assert expected.abs().max() > 0

    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "merged")
    sound = samples[0, 0].astype(np.float32) / 32768
    values = extractor(sound, sampling_rate=8000, return_tensors="pt")["input_values"]
    torch.testing.assert_close(scaled[:, 0], values, atol=1e-5, rtol=1e-4)
    merged = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "merged").eval()
    assert [merged.config.id2label[number] for number in range(2)] == SOUNDS["labels"]
    torch.testing.assert_close(merged(values).logits, expected, atol=1e-5, rtol=1e-4)
    loaded = peft.PeftModel.from_pretrained(load(job).model, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(values).logits, expected, atol=1e-5, rtol=1e-4)


def test_whispers_spectrum_is_transformers_own_and_so_is_what_an_export_says(tmp_path: Path) -> None:
    job = make_job(tmp_path, save_whisper(tmp_path), rate=16_000)
    run = simulate(job, runs=tmp_path / "runs")
    folder = RunFolder.open(run.folder)
    export_merged(folder, tmp_path / "merged")
    adapted = AdaptedModel(load(job), job=job, device=CPU)
    adapted.load(folder.load_adapter(2, adapted.layout))
    adapted.peft.eval()
    samples = adapted.probe().arrays["values"][:2]
    samples[1] //= 50  # another sound's loudest place decides nothing
    scaled = adapted.task.scaled(torch.from_numpy(samples), adapted.base.reader)
    assert scaled.shape == (2, 20, 100)
    expected = adapted.task.logits(adapted.peft, scaled)
    assert expected.abs().max() > 0

    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "merged")
    sounds = list(samples[:, 0].astype(np.float32) / 32768)
    values = extractor(sounds, sampling_rate=16_000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(scaled, values, atol=1e-4, rtol=1e-4)
    merged = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(values).logits, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("table", "changes", "keys", "words"),
    [
        (True, {}, {}, "data.rate=8000: expected 16000, which the model was made for"),
        (True, {}, {"rate": 16_000, "seconds": 2.0}, "data.seconds=2: expected at most 1"),
        (True, {"hop_length": 0}, {"rate": 16_000}, "expected whole numbers above 0"),
        (True, {"n_fft": "400"}, {"rate": 16_000}, "expected whole numbers above 0"),
        (True, {"feature_size": 40}, {"rate": 16_000}, "cannot be run on"),
        (
            False,
            {},
            {"rate": 16_000},
            "cannot be run on",
        ),  # half a minute is usual, of which it hears a second
    ],
)
def test_a_spectrum_that_a_model_does_not_hear_is_refused(
    table: bool, changes: dict[str, Any], keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    job = make_job(tmp_path, save_whisper(tmp_path, table=table, **changes), sounds=4, **keys)
    with pytest.raises(ModelError) as told:
        load(job)
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("saved", "keys", "words"),
    [
        ({"sampling_rate": 16_000}, {}, "data.rate=8000: expected 16000, which the model was made for"),
        ({"sampling_rate": 48_000}, {"rate": 8_000}, "data.rate=8000: expected 48000"),
    ],
)
def test_a_rate_that_is_not_the_models_is_refused(
    saved: dict[str, Any], keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    job = make_job(tmp_path, save_model(tmp_path, **saved), sounds=4, **keys)
    with pytest.raises(ModelError) as told:
        load(job)
    assert words in str(told.value)


def test_a_model_of_spectra_or_texts_is_refused(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    spectra = transformers.ASTForAudioClassification(transformers.ASTConfig(**small, max_length=32))
    spectra.save_pretrained(tmp_path / "ast")
    texts = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=9, **small))
    texts.save_pretrained(tmp_path / "bert")
    for name, words in {"ast": "reads spectra", "bert": "no audio classifier for 'bert'"}.items():
        with pytest.raises(ModelError, match=words):
            load(make_job(tmp_path, tmp_path / name, sounds=4))
