"""A whole language model as one GGUF file, in the blocks of llama.cpp that take four bits and a half.

Q4_0 has 16 levels and a half-precision scale for each 32 weights of a row, Q8_0 256 levels. As in
llama.cpp's convert_hf_to_gguf.py, rows of queries and keys are permuted: it turns pairs of neighbours where
transformers turns the halves of a head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import UserError
from protocol.job.job import Job
from protocol.plain_text import quoted, quoted_some
from runs.quantized.gguf_vocabulary import GgufVocabulary, read_vocabulary
from tasks.language import LanguageTask
from tasks.model.base_model import BaseModel
from tasks.model.device import Device
from tasks.registry import find_task

FILE = "model.gguf"
KNOWN = ("llama",)  # transformers' model_type
_BLOCK = 32  # weights that share a scale
_HALF_BITS = 2  # llama.cpp's file type "mostly Q4_0", and the version of its blocks


class GgufFile:
    """``--quantize gguf-q4``: causal language models of the architectures in ``KNOWN``."""

    name = "gguf-q4"
    scheme = (
        "Linear layers are in GGUF's Q4_0, 4.5 bits a weight; embeddings and the output layer in Q8_0, 8.5 "
        "bits; norms are float32"
    )
    loading = (
        "llama.cpp and what is built on it read `model.gguf`. So does transformers, which unpacks it: "
        '`AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file="model.gguf")`, and `AutoTokenizer` alike.'
    )

    def check_job(self, job: Job) -> None:
        if not isinstance(find_task(job.task), LanguageTask):
            raise UserError(
                f'--quantize gguf-q4: expected a task whose models write, got task="{job.task}": use '
                "--quantize int8"
            )

    def check_model(self, base: BaseModel) -> None:
        config: Any = base.model.config
        if config.model_type not in KNOWN:
            raise UserError(
                f"--quantize gguf-q4: expected a model of {quoted_some(KNOWN)}, got "
                f"{quoted(config.model_type)}: use --quantize int8"
            )
        rope = config.rope_parameters or {}
        odd = {
            "hidden_act": (config.hidden_act, "silu"),
            "rope_type": (rope.get("rope_type", "default"), "default"),
            "attention_bias": (config.attention_bias, False),
            "mlp_bias": (config.mlp_bias, False),
        }
        for key, (found, expected) in odd.items():
            if found != expected:
                raise UserError(
                    f"--quantize gguf-q4: expected a model with {key}={expected!r}, got {found!r}: use "
                    "--quantize int8"
                )
        widths = {
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_attention_heads · head_dim": config.num_attention_heads * config.head_dim,
        }
        for key, width in widths.items():
            if width % _BLOCK:
                raise UserError(
                    f"--quantize gguf-q4: expected rows of whole blocks of {_BLOCK} weights, got {key}="
                    f"{width}: use --quantize int8"
                )
        read_vocabulary(base.reader.tokenizer, size=config.vocab_size)

    def write(self, merged: Any, base: BaseModel, job: Job, folder: Path) -> None:
        from gguf import GGUFWriter

        config = merged.config
        writer = GGUFWriter(folder / FILE, "llama")
        writer.add_name(job.name)
        _describe(writer, config)
        _add_vocabulary(writer, read_vocabulary(base.reader.tokenizer, size=config.vocab_size))
        _add_tensors(writer, merged)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def load(self, folder: Path, merged: Any, device: Device) -> Any:
        loaded = type(merged).from_pretrained(
            folder,
            gguf_file=FILE,
            dtype=torch.float32,
            attn_implementation=device.attention,
            local_files_only=True,
        )
        loaded.config.use_cache = False
        return loaded

    def weights(self, folder: Path) -> tuple[Path, ...]:
        return (folder / FILE,)


def _describe(writer: Any, config: Any) -> None:
    """What llama.cpp makes its own config of."""
    writer.add_file_type(_HALF_BITS)
    writer.add_quantization_version(_HALF_BITS)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_vocabulary(writer: Any, vocabulary: GgufVocabulary) -> None:
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for all byte-level tokenizers
    writer.add_tokenizer_pre(vocabulary.splits)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for name, number in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(vocabulary.begins)
    if vocabulary.template is not None:
        writer.add_chat_template(vocabulary.template)


def _add_tensors(writer: Any, merged: Any) -> None:
    """Every tensor once: an output layer that is the embedding's is left out, as llama.cpp expects."""
    from gguf import GGMLQuantizationType, get_tensor_name_map
    from gguf.constants import MODEL_ARCH
    from gguf.quants import quantize

    config = merged.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in merged.named_parameters():
        theirs = names.get_name(name, try_suffixes=(".weight",))
        if theirs is None:
            raise UserError(f"--quantize gguf-q4: llama.cpp has no place for {name}: use --quantize int8")
        kind = GGMLQuantizationType.Q4_0
        if tensor.ndim == 1:
            kind = GGMLQuantizationType.F32
        elif theirs in {"token_embd.weight", "output.weight"}:
            kind = GGMLQuantizationType.Q8_0
        values = tensor.detach().float().cpu().numpy()
        if ".q_proj." in name:
            values = permuted(values, config.num_attention_heads)
        elif ".k_proj." in name:
            values = permuted(values, config.num_key_value_heads)
        writer.add_tensor(theirs, quantize(values, kind), raw_dtype=kind)


def permuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of queries or keys, float32[heads · d, in], as llama.cpp has them: halves interleaved."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
