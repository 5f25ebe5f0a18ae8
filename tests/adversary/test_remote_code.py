"""Models that carry code: Python under ``auto_map``, pickles for weights, adapters with a base."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import tomli_w
import torch
from safetensors.torch import load_file

import client.agent.site_host
from client.agent.site_host import SiteHost
from client.custody.site_file import read_site_file
from client.planning import plan_here
from privacy.errors import ModelError
from protocol.job.job_file import parse_job
from protocol.messages.confide_pb2 import Reply
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tasks.model.base_model import load_base_model
from tasks.model.device import Device
from tests import children, tiny
from tests.adversary.hostile_models import carry_code, carry_pickle, change_json, publish
from tests.client.agents import SITE, Coordinator, write_site

CPU = Device(torch=torch.device("cpu"), bfloat16=False)
ROOT = Path(__file__).resolve().parents[2]


class Trap:
    """A model with code in it, and whether that ran."""

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.model = place, model
        self.marker = place / "it-ran"

    def code(self, *, known: bool = False) -> Path:
        return carry_code(self.place / f"code-{known}", self.model, self.marker, known=known)

    def pickle(self) -> Path:
        return carry_pickle(self.place / "pickle", self.model, self.marker)

    @property
    def ran(self) -> bool:
        return self.marker.exists()


@pytest.fixture
def trap(tmp_path: Path, tiny_folder: Path) -> Trap:
    return Trap(tmp_path, tiny_folder / "model")


def load(tiny_folder: Path, source: Path | str) -> None:
    job = tiny.job(tiny_folder, model={"source": str(source)})
    load_base_model(job, labels=("no", "yes"), device=CPU)


def test_the_trap_is_one(trap: Trap) -> None:
    """A pickle that is read without care runs, so that these tests could see it."""
    folder = trap.pickle()
    with (folder / "pytorch_model.bin").open("rb") as file:
        pickle.load(file)  # noqa: S301 - this is the point
    assert trap.ran


@pytest.mark.exhaustive
@pytest.mark.parametrize("known", [True, False])
def test_confide_plan_runs_nothing_and_asks_nothing(trap: Trap, tiny_folder: Path, known: bool) -> None:
    job = tiny.table(tiny_folder) | {"model": {"source": str(trap.code(known=known)), "pooling": "mean"}}
    (trap.place / "job.toml").write_text(tomli_w.dumps(job))
    done = children.run(
        [sys.executable, "-m", "confide", "plan", str(trap.place / "job.toml"), "--force"],
        input="y\ny\ny\ny\n",
        cwd=ROOT,
        env=os.environ | {"HF_HOME": str(trap.place / "hub")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not trap.ran
    assert "[y/N]" not in done.stdout + done.stderr
    # What transformers has a class of its own for, it can load.
    assert done.returncode == (0 if known else 2), done.stderr
    assert known or "could not be loaded" in done.stderr


@pytest.mark.parametrize("source", ["folder", "hub"])
def test_a_model_of_unknown_kind_is_refused(
    trap: Trap, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def ask(_prompt: str = "") -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", ask)
    folder = trap.code()
    if source == "hub":
        publish(trap.place / "hub", "org/name", folder)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(trap.place / "hub"))
    with pytest.raises(ModelError, match=r"could not be loaded: .*custom code"):
        load(tiny_folder, folder if source == "folder" else "org/name")
    assert not trap.ran


def test_a_model_of_known_kind_is_loaded_without_its_code(
    trap: Trap, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _prompt="": "y")
    load(tiny_folder, trap.code(known=True))
    assert not trap.ran


def test_a_language_models_own_way_to_generate_is_not_run(trap: Trap, tiny_folder: Path) -> None:
    import transformers

    config = transformers.GPT2Config(vocab_size=17, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    language = trap.place / "language"
    transformers.GPT2LMHeadModel(config).save_pretrained(language)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trap.model / name, language / name)
    trap.model = language
    table = tiny.table(tiny_folder) | {"task": "causal-lm", "model": {"source": str(trap.code(known=True))}}
    job = parse_job(table | {"data": {"source": "none", "max_length": 8}})
    load_base_model(job, labels=(), device=CPU)
    assert not trap.ran


def test_a_pickle_is_refused_with_the_way_out(trap: Trap, tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, and reading a pickle .*\.save_pretrained\("):
        load(tiny_folder, trap.pickle())
    assert not trap.ran


def honest_pickle(model: Path) -> None:
    """Weights that are only weights, in a pickle: what they are is known when it was read, and too late."""
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


def shards(model: Path) -> None:
    honest_pickle(model)
    names = torch.load(model / "pytorch_model.bin", weights_only=True)
    table = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}
    (model / "model.safetensors.index.json").write_text(json.dumps(table))


def named_in_config(model: Path) -> None:
    honest_pickle(model)
    (model / "pytorch_model.bin").rename(model / "adapter_model.bin")
    (model / "other.safetensors").write_bytes(b"")
    change_json(model / "config.json", lambda table: table.update(transformers_weights="adapter_model.bin"))


def other_ending(model: Path) -> None:
    honest_pickle(model)
    (model / "pytorch_model.bin").rename(model / "weights.pt")


@pytest.mark.parametrize("change", [honest_pickle, shards, named_in_config, other_ending])
def test_no_way_leads_to_a_pickle(
    trap: Trap, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    model = shutil.copytree(trap.model, trap.place / "model")
    change(model)

    def read(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", read)
    with pytest.raises(ModelError, match="reading a pickle can run code: expected safetensors"):
        load(tiny_folder, model)


def test_a_pickle_beside_safetensors_is_not_read(trap: Trap, tiny_folder: Path) -> None:
    folder = trap.pickle()
    shutil.copy(trap.model / "model.safetensors", folder)
    load(tiny_folder, folder)
    assert not trap.ran


def test_a_pickle_on_the_hub_is_not_read(
    trap: Trap, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(trap.model, trap.place / "model")
    honest_pickle(model)
    publish(trap.place / "hub", "org/name", model)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(trap.place / "hub"))
    read = []
    monkeypatch.setattr(torch, "load", lambda *_, **__: read.append("a pickle") or {})
    with pytest.raises(ModelError, match=r"model\.source='org/name'"):
        load(tiny_folder, "org/name")
    assert read == []


def test_an_adapter_does_not_bring_a_base_model(trap: Trap, tiny_folder: Path) -> None:
    """transformers would load what its config names, from wherever that is."""
    model = shutil.copytree(trap.model, trap.place / "model")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "attacker/model", "r": 1}
    (model / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ModelError, match="holds an adapter of PEFT's"):
        load(tiny_folder, model)


def test_the_hub_is_not_asked_again_about_a_model_that_is_here(
    trap: Trap, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT would look there whether the model's vocabulary was changed, and load a config of its own."""
    asked = []
    monkeypatch.setattr(
        "peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *names: asked.append(names)
    )
    publish(trap.place / "hub", "org/name", trap.model)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(trap.place / "hub"))
    reply = join(trap, tiny_folder, "hub:org/name")
    assert reply.HasField("joined"), reply.refused.reason
    assert asked == []


def test_every_load_is_without_foreign_code_and_from_here(
    trap: Trap, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    asked = {}

    def watch(name: str) -> None:
        load_it = getattr(transformers, name).from_pretrained

        def record(*arguments: object, **options: object) -> object:
            asked[name] = options["trust_remote_code"], options["local_files_only"]
            return load_it(*arguments, **options)

        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", record)

    names = ("AutoConfig", "AutoModelForTokenClassification", "AutoTokenizer")
    for name in names:
        watch(name)
    load(tiny_folder, trap.model)
    assert asked == dict.fromkeys(names, (False, True))


def join(trap: Trap, tiny_folder: Path, model: Path | str) -> Reply:
    coordinator = Coordinator()
    manifest = World(tiny.job(tiny_folder)).manifest("run")
    job = tiny.job(tiny_folder, model={"source": "org/name"})
    path = write_site(
        trap.place / "home", tiny_folder, coordinator.identity, models={"org/name": str(model)}
    )
    envelope = coordinator.join(replace(manifest, job=job))
    public = coordinator.identity.public
    opened = open_envelope(envelope, public_key=public, sender=COORDINATOR, receiver=SITE)
    return Reply.FromString(SiteHost(path.parent, read_site_file(path), planner=plan_here).answer(opened))


def test_a_model_that_fails_at_a_site_is_called_as_the_job_calls_it(
    trap: Trap, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_here = client.agent.site_host.load_base_model

    def fail(_module: Any, _args: Any) -> None:
        raise RuntimeError("it fails")

    def failing(*arguments: Any, **options: Any) -> Any:
        base = load_here(*arguments, **options)
        base.model.register_forward_pre_hook(fail)
        return base

    monkeypatch.setattr(client.agent.site_host, "load_base_model", failing)
    model = tiny.table(tiny_folder)["model"]["source"]
    refused = join(trap, tiny_folder, model).refused
    assert "model.source='org/name': the model fails on a made-up text" in refused.reason
    assert str(model) not in refused.reason


@pytest.mark.parametrize("kind", ["code", "pickle"])
def test_a_site_runs_nothing_when_it_is_asked_to_join(
    trap: Trap, tiny_folder: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    model = trap.code() if kind == "code" else trap.pickle()
    refused = join(trap, tiny_folder, model).refused
    assert "model.source='org/name' cannot be loaded at this site" in refused.reason
    assert str(trap.place) not in refused.reason
    assert "could not be loaded" in caplog.text or "a pickle" in caplog.text
    assert not trap.ran
