"""A GGUF file has the model: transformers reads the weights, the tokens and the config out of it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from tokenizers import pre_tokenizers

from privacy.errors import UserError
from runs.quantized.gguf_file import FILE, GgufFile, permuted
from runs.quantized.gguf_vocabulary import read_vocabulary
from runs.quantized.weight_format import weights_error
from tasks.model.base_model import BaseModel
from tasks.model.checkpoint import read_checkpoint
from tests.runs.byte_tokens import SIZE, byte_tokenizer, cutters, write_llama
from tests.tasks.model.checkpoints import CPU, DECODER, job_for, load, logits, write_checkpoint

TEXTS = torch.tensor([[5, 60, 61, 62], [9, 100, 11, 12]])
SENTENCE = "a train, 12 trains too </s> <think> émile's\n\n day"


def base_of(source: Path) -> BaseModel:
    return load(source, task="causal-lm")


def unpacked(model: Any) -> Any:
    """The same model with its weights as our own packing leaves them: no file, no permutation."""
    kinds = {"embed_tokens": GGMLQuantizationType.Q8_0, "lm_head": GGMLQuantizationType.Q8_0}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            kind = kinds.get(name.split(".")[-2], GGMLQuantizationType.Q4_0)
            found = dequantize(quantize(parameter.detach().numpy(), kind), kind)
            parameter.data = torch.from_numpy(found.copy())
    return model


def written(base: BaseModel, folder: Path) -> Path:
    folder.mkdir()
    GgufFile().write(base.model, base, job_for(folder, task="causal-lm"), folder)
    return folder


@pytest.mark.parametrize("tied", [False, True], ids=["an output layer", "tied"])
def test_transformers_reads_what_was_written(tied: bool, tmp_path: Path) -> None:
    base = base_of(write_llama(tmp_path / "base", tied=tied))
    GgufFile().check_model(base)
    folder = written(base, tmp_path / "out")
    names = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(folder / FILE).tensors}
    assert ("output.weight" in names) != tied
    assert names.get("token_embd.weight") == "Q8_0"
    assert {names[f"blk.1.{layer}.weight"] for layer in ("attn_q", "attn_output", "ffn_down")} == {"Q4_0"}
    assert names["blk.0.attn_norm.weight"] == names["output_norm.weight"] == "F32"
    loaded = GgufFile().load(folder, base.model, CPU)
    found = logits(loaded, TEXTS)
    # A step of Q4_0 is an eighth of a block's largest weight.
    error = weights_error(base.model, loaded)
    assert 0.03 < error.whole < 0.12
    assert error.packed == 2 * 7 + 2 - tied
    assert (found - logits(base.model, TEXTS)).abs().max() > 0.01
    torch.testing.assert_close(found, logits(unpacked(base.model), TEXTS), atol=1e-5, rtol=1e-5)


def test_a_model_that_is_read_from_such_a_file_is_saved_like_any_other(tmp_path: Path) -> None:
    folder = written(base_of(write_llama(tmp_path / "base")), tmp_path / "out")
    options = {"gguf_file": FILE}
    found = read_checkpoint(
        job_for(folder, task="causal-lm", model={"gguf": FILE}),
        str(folder),
        transformers.LlamaForCausalLM,
        transformers.AutoConfig.from_pretrained(folder, **options),
        labels=(),
        device=CPU,
        options=options,
    ).model
    found.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for name, tensor in found.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_halves_of_a_head_become_pairs() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert permuted(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert permuted(rows, 1)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@pytest.mark.parametrize("splits", cutters())
def test_texts_have_the_same_tokens(splits: str, tmp_path: Path) -> None:
    base = base_of(write_llama(tmp_path / "base", cutter=cutters()[splits]))
    folder = written(base, tmp_path / "out")
    ours = base.reader.tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    assert theirs(SENTENCE)["input_ids"] == ours(SENTENCE)["input_ids"]
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)


def test_what_each_token_is_stands_in_the_vocabulary() -> None:
    found = read_vocabulary(byte_tokenizer(cutters()["smollm"]), size=SIZE)
    assert found.tokens[:3] == ("<pad>", "<s>", "</s>")
    assert found.tokens[-4:] == ("<think>", "[PAD267]", "[PAD268]", "[PAD269]")
    assert set(found.types[:3]) == {3}
    assert found.types[3:-4] == (1,) * (SIZE - 7)
    assert found.types[-4:] == (4, 5, 5, 5)
    assert found.merges[:2] == ("t r", "a i")
    assert (found.splits, found.begins, dict(found.special)) == (
        "smollm",
        False,
        {"bos": 1, "eos": 2, "pad": 0},
    )


@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_tokenizer(pre_tokenizers.Whitespace()),
        byte_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        byte_tokenizer(cutters()["gpt-2"], lower=True),
    ],
    ids=["whitespace", "a space first", "lower case"],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"no byte-level tokenizer that cuts text as GPT-2's, SmolLM's"):
        read_vocabulary(tokenizer, size=SIZE)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_size": 48, "head_dim": 8}, "blocks of 32 weights, got hidden_size=48"),
        ({"head_dim": 6}, "got num_attention_heads · head_dim=24"),
        ({"hidden_act": "gelu"}, "expected a model with hidden_act='silu', got 'gelu'"),
        ({"attention_bias": True}, "expected a model with attention_bias=False, got True"),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "expected a model with rope_type='default', got 'linear'",
        ),
    ],
    ids=["width", "heads", "activation", "bias", "rope"],
)
def test_what_the_file_could_not_say_is_refused(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    base = base_of(write_llama(tmp_path / "base", **config))
    with pytest.raises(UserError, match=words):
        GgufFile().check_model(base)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    base = base_of(write_checkpoint(tmp_path / "base", "Qwen2ForCausalLM", **DECODER))
    with pytest.raises(UserError, match=r"expected a model of 'llama', got 'qwen2': use --quantize int8"):
        GgufFile().check_model(base)


def test_a_task_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'whose models write, got task="sequence-classification"'):
        GgufFile().check_job(job_for(tmp_path))
