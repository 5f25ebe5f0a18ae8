"""A tokenizer that fails on one text, or makes nothing of it: whether it does must not be an answer.

The custodian named the model, so that its tokenizer sees the texts; the digest is right. A language model
needs two tokens, and honest ones fail on a text of one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks.data.tokenization
from simulation.simulated_federation import World
from tests import tiny
from tests.adversary.hostile_models import change_json
from tests.adversary.neighbours import ROWS, Party, largest_move, write_rows
from tests.adversary.test_neighbours import Bench, check_alike, kinds


class PanicError(BaseException):
    """As what Rust panics with: no Exception."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("blank")
        tiny.write_model(folder / "model", fillers=3000)
        yield Bench(folder, monkeypatch)


def raising(folder: Path, model: Path) -> Path:
    """A copy of a model whose tokenizer knows words alone, and raises on any other."""
    shutil.copytree(model, folder)

    def change(table: dict[str, Any]) -> None:
        vocabulary = table["model"]["vocab"]
        vocabulary["a"] = vocabulary.pop("filler0")  # what a model's loading tries
        table["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "nothing"}

    change_json(folder / "tokenizer.json", change)
    change_json(
        folder / "tokenizer_config.json", lambda table: table.update(tokenizer_class="TokenizersBackend")
    )
    return folder


def two_sites(bench: Bench, world: World, model: Path, *examples: str) -> list[Party]:
    manifest, models = world.manifest("run"), {str(model): str(model)}
    return [
        bench.alone(world, manifest, example, adapter=world.initial_adapter, models=models)
        for example in examples
    ]


def test_a_text_that_a_tokenizer_raises_on_does_not_show(bench: Bench) -> None:
    model = raising(bench.folder / "raising", bench.folder / "model")
    world = World(bench.job(model, metrics={"epsilon": 1.0}))
    plain, unknown = two_sites(bench, world, model, "plain", "unknown")
    assert kinds(plain) == ["joined", "trained", "trained", "refused", "evaluated"]
    check_alike(plain, unknown, bound=largest_move(world.job))


@pytest.mark.exhaustive
@pytest.mark.parametrize("error", [PanicError, ValueError, RecursionError])
def test_a_text_that_a_tokenizer_panics_on_does_not_show(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    model = bench.folder / "model"
    world = World(bench.job(model, metrics={"epsilon": 1.0}))
    reader, seen = tasks.data.tokenization.Reader, []

    class Panicking:
        """A tokenizer that cannot stand one word."""

        def __init__(self, tokenizer: Any) -> None:
            self._tokenizer = tokenizer
            self.pad_token_id = tokenizer.pad_token_id

        def __call__(self, texts: Any, **options: Any) -> Any:
            seen.append(texts)
            if "xylophone" in str(texts):
                raise error("xylophone")
            return self._tokenizer(texts, **options)

    def panicking(*, tokenizer: Any, **options: Any) -> Any:
        return reader(tokenizer=Panicking(tokenizer), **options)

    monkeypatch.setattr(tasks.data.tokenization, "Reader", panicking)
    plain, unknown = two_sites(bench, world, model, "plain", "unknown")
    assert kinds(plain)[0] == "joined"
    check_alike(plain, unknown, bound=largest_move(world.job))
    # One call a text, whatever becomes of it: none fails for another's sake, and none is made again.
    assert [type(texts) for texts in seen] == [str] * (2 * ROWS)


# Language models.


@pytest.fixture(scope="module")
def language(bench: Bench) -> tuple[Path, World]:
    """A tiny language model, whose tokenizer puts nothing around a text: one word is one token."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = shutil.copytree(bench.folder / "model", bench.folder / "language")
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    tokens = 5 + len(tiny.WORDS) + 3000
    config = GPT2Config(
        vocab_size=tokens,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    change_json(folder / "tokenizer.json", lambda table: table.update(post_processor=None))
    change_json(
        folder / "tokenizer_config.json", lambda table: table.update(tokenizer_class="TokenizersBackend")
    )
    data = {"source": str(write_rows(bench.folder / "all.csv", "plain")), "holdout": 0.5}
    job = tiny.job(
        bench.folder,
        task="causal-lm",
        model={"source": str(folder), "pooling": "model"},
        adapter={"target_modules": ["c_attn"]},
        data={**data, "label": None, "labels": None},
        training={"rounds": 2, "local_steps": 1, "batch_size": 40, "physical_batch_size": 40},
        metrics={"epsilon": 1.0},
    )
    return folder, World(job)


@pytest.mark.exhaustive
@pytest.mark.parametrize("example", ["one word", "empty", "long", "undecodable"])
def test_a_text_too_short_to_predict_does_not_show(
    bench: Bench, language: tuple[Path, World], example: str
) -> None:
    model, world = language
    plain, short = two_sites(bench, world, model, "plain", example)
    assert kinds(plain) == ["joined", "trained", "trained", "refused", "evaluated"]
    check_alike(plain, short, bound=largest_move(world.job))
