"""Sounds as people have them: each file is an example, or blank with a reason, and decides about itself."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.io import wavfile

from client.custody.data_set import DataSet, read_data_set
from client.custody.site_file import DataSource
from privacy.errors import DataError, JobError
from protocol.job.job_file import parse_job
from tasks.data import sound_files
from tasks.data.named_files import UnreadableFileError
from tasks.data.sound_files import SoundShape, find_sound, read_sound
from tasks.model.sound_network import SoundNetwork, mel_bands
from tasks.registry import checked_job
from tests.tasks.networks import job_table

KEYS = {"labels": ["cough", "speech"]}
RAMP = np.arange(-400, 400, dtype=np.int16) * 40


def save(path: Path, samples: np.ndarray, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, samples)
    return path


def read(folder: Path, **keys: Any) -> DataSet:
    source = {"source": str(folder)} | KEYS | keys
    return read_data_set("sounds", DataSource(task="audio-classification", **source))


def wave_bytes(samples: np.ndarray, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def test_every_width_of_numbers_is_read_at_one_scale(tmp_path: Path) -> None:
    expected = (RAMP / 32768).astype(np.float32)
    for name, samples in {
        "16": RAMP,
        "32": RAMP.astype(np.int32) << 16,
        "float": expected,
        "double": expected.astype(np.float64),
        "stereo": np.stack([RAMP, RAMP], axis=1),
    }.items():
        found, rate = read_sound(save(tmp_path / f"{name}.wav", samples))
        assert rate == 8000
        assert np.array_equal(found, expected), name
    for subtype in ("PCM_16", "PCM_24"):
        for kind in ("WAV", "FLAC"):
            path = tmp_path / f"{subtype}.{kind.lower()}"
            soundfile.write(path, RAMP, 8000, subtype=subtype)
            assert np.array_equal(read_sound(path)[0], expected), (subtype, kind)
    bytes_ = save(tmp_path / "8.wav", np.array([0, 128, 255], np.uint8))
    assert read_sound(bytes_)[0].tolist() == [-1, 0, np.float32(127 / 128)]


def test_channels_are_mixed_and_numbers_beyond_the_scale_are_cut_off(tmp_path: Path) -> None:
    loud = save(tmp_path / "a.wav", np.array([[2.0, 0.0], [-3.0, -1.0], [0.5, 0.25]], np.float32))
    assert read_sound(loud)[0].tolist() == [0.5, -1.0, 0.375]


def test_the_same_samples_in_another_file_are_the_same_example(tmp_path: Path) -> None:
    one = find_sound(save(tmp_path / "a.wav", RAMP))
    soundfile.write(tmp_path / "b.flac", np.stack([RAMP, RAMP], axis=1), 8000)
    other = find_sound(tmp_path / "b.flac")
    slower = find_sound(save(tmp_path / "c.wav", RAMP, rate=4000))
    assert one == other
    assert len({one, other, slower}) == 2
    assert sorted([slower, one]) == sorted([one, slower])


def broken(folder: Path) -> dict[str, str]:
    """Files that cannot be read, by name, and what is said."""
    whole, cut = wave_bytes(RAMP), "is damaged, or was not written whole"
    soundfile.write(folder / "cut.flac", np.tile(RAMP, 50), 8000)
    packed = (folder / "cut.flac").read_bytes()
    soundfile.write(folder / "law.wav", RAMP, 8000, subtype="ULAW")
    files = {
        "cut.flac": (packed[: len(packed) // 2], cut),
        "cut.wav": (whole[: len(whole) // 2], cut),
        "empty.wav": (b"", "is empty"),
        "law.wav": (
            (folder / "law.wav").read_bytes(),
            "is compressed, as A-law or ADPCM are: save it as PCM",
        ),
        "music.wav": (b"ID3\x03 and so on", "is no WAV or FLAC"),
        "nan.wav": (
            wave_bytes(np.array([0.0, np.nan], np.float32)),
            "holds samples that are no finite numbers",
        ),
        "none.wav": (wave_bytes(RAMP[:0]), "holds no samples"),
        "rate.wav": (
            wave_bytes(RAMP, rate=1_000_000),
            "has 1,000,000 samples a second, expected 4,000 to 384,000",
        ),
        # A header that promises two billion channels' worth.
        "wide.wav": (whole[:22] + struct.pack("<H", 0) + whole[24:], cut),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: said for name, (_, said) in files.items()}


def test_what_cannot_be_read_is_blank_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "cough").mkdir()
    said = broken(tmp_path / "cough")
    save(tmp_path / "speech" / "a.wav", RAMP)
    (tmp_path / "speech" / "notes.txt").write_text("left alone")
    data = read(tmp_path)
    names = sorted(said)
    assert len(data) == len(names) + 1
    expected = {f"'{name}' {why}": (names.index(name),) for name, why in said.items()}
    assert data.blank == expected
    examples = data.task.encode(SoundShape(rate=8000, seconds=0.25), data.rows, labels=data.labels).examples
    assert (examples.sizes > 0).tolist() == [False] * len(names) + [True]
    assert examples.arrays["values"][-1, 0, : len(RAMP)].tolist() == RAMP.tolist()


def test_in_a_simulation_it_is_an_error_by_its_name(tmp_path: Path) -> None:
    from simulation.simulate import simulate

    (tmp_path / "cough").mkdir()
    broken(tmp_path / "cough")
    keys = KEYS | {"seconds": 0.5}
    with pytest.raises(DataError, match=r"data: row 1 has no value: 'cut\.flac' is damaged.*\(9 in all\)"):
        simulate(parse_job(job_table("audio-classification", tmp_path, keys)), runs=tmp_path / "runs")


def test_without_soundfile_flac_is_blank_and_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.flac", RAMP, 8000)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UnreadableFileError, match=r"needs soundfile: pip install 'confide\[audio\]'"):
        read_sound(tmp_path / "a.flac")


def test_one_that_is_too_long_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.wav", RAMP)
    monkeypatch.setattr(sound_files, "MOST_SAMPLES", 100)
    monkeypatch.setattr(wavfile, "read", lambda _path: pytest.fail("it was unpacked"))
    with pytest.raises(UnreadableFileError, match="has more than"):
        read_sound(path)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_a_tone_keeps_its_height_at_another_rate(rate: int) -> None:
    moments = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 1000 * moments)).astype(np.float32)
    found = SoundShape(rate=8_000, seconds=0.5).fitted(tone, rate)
    assert found.shape == (4000,)
    strength = np.abs(np.fft.rfft(found[400:3600].astype(float)))
    assert strength.argmax() == 400  # 1000 of 4000 hertz, at 1600 points
    # Half a full scale; the filter ripples by less than 1 %.
    assert strength.max() / 1600 == pytest.approx(0.5 * 32768, rel=0.01)


def test_a_sound_is_cut_to_its_first_seconds_and_a_short_one_ends_in_silence() -> None:
    samples = (RAMP / 32768).astype(np.float32)
    long = SoundShape(rate=8_000, seconds=0.05).fitted(samples, 8_000)
    short = SoundShape(rate=8_000, seconds=0.25).fitted(samples, 8_000)
    assert long.tolist() == RAMP[:400].tolist()
    assert short[:800].tolist() == RAMP.tolist()
    assert not short[800:].any()


def test_a_tone_is_in_the_band_of_its_height_at_its_power() -> None:
    network = SoundNetwork(rate=8_000, labels=["a", "b"], width=8)
    moments = torch.arange(8_000) / 8_000
    powers = network.spectrum(0.5 * torch.sin(2 * torch.pi * 1000 * moments)[None])[0, :, 20]
    bands = mel_bands(8_000, 256)
    assert powers.argmax() == bands[:, 32].argmax()  # 32 · 8000 / 256 hertz
    # The amplitude's square, less what lies beside the band's middle.
    assert 0.25 * bands[:, 32].max() * 0.9 < powers.max() < 0.25 * 1.5
    assert (bands.sum(1) > 0).all()


def test_silence_after_a_sound_changes_its_spectrums_means_by_nothing() -> None:
    network = SoundNetwork(rate=8_000, labels=["a", "b"], width=8).eval()
    generator = torch.Generator().manual_seed(0)
    sound = torch.zeros(1, 1, 8_000)
    sound[:, :, :3_000] = torch.randn(3_000, generator=generator) * 0.1
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.weight[:, : 3 * 39] = 1  # of the bands alone
        longer = torch.cat([sound, torch.zeros(1, 1, 4_000)], 2)
        torch.testing.assert_close(network(sound), network(longer))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"label": "kind"}, "path: expected the column of paths beside the column of labels"),
        ({"seconds": 0.01}, "data.seconds: expected"),
        ({"rate": 4000}, "data.rate: expected"),
        ({"seconds": 60, "rate": 48_000}, "seconds: expected at most 480,000 samples"),
        ({"labels": None}, "data.labels: expected the list of labels"),
    ],
)
def test_wrong_keys_are_named(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    chosen = {key: value for key, value in (KEYS | {"seconds": 1.0} | keys).items() if value is not None}
    with pytest.raises(JobError) as told:
        checked_job(parse_job(job_table("audio-classification", tmp_path, chosen)))
    assert words in str(told.value)


def test_a_folder_without_sounds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cough").mkdir()
    with pytest.raises(DataError, match="no folder in it has sounds"):
        read(tmp_path)
    with pytest.raises(DataError, match="expected a folder with a folder of sounds for each label"):
        read(tmp_path / "nowhere")
