"""Tiny models with random weights, and jobs and examples to match: what a checkpoint would be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from protocol.job.job import Job
from protocol.job.job_file import parse_job
from tasks.data.token_examples import TokenExamples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.base_model import BaseModel, Pretrained
from tasks.model.classifier import last_layer
from tasks.model.device import Device
from tasks.model.model_limits import count_tokens, longest_text
from tasks.registry import find_task, section_of
from tasks.text import TextTask

VOCABULARY = 50
LABELS = 3


def bert(*, layers: int = 2, pooling: str = "model") -> nn.Module:
    """BERT with a head on the pooled first token, or on every token for ``pooling="mean"``."""
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    config = BertConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **_common(),
    )
    kind = BertForTokenClassification if pooling == "mean" else BertForSequenceClassification
    return _seeded(kind, config)


def llama(*, layers: int = 2) -> nn.Module:
    """Llama with grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        **_common(),
    )
    return _seeded(LlamaForCausalLM, config)


def gpt2(*, layers: int = 2) -> nn.Module:
    """GPT-2: Conv1D in place of linear layers, queries, keys and values in one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=16,
        n_layer=layers,
        n_head=2,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        **_common(),
    )
    return _seeded(GPT2LMHeadModel, config)


def deepseek(*, layers: int = 2) -> nn.Module:
    """DeepSeek-V3: latent attention, one dense layer, then routed and shared experts."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_shared_experts=1,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        routed_scaling_factor=1.0,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
        **_common(),
    )
    return _seeded(DeepseekV3ForCausalLM, config)


def mixtral(*, layers: int = 2) -> nn.Module:
    """Mixtral: routed experts in each layer, and nothing beside them."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        **_common(),
    )
    return _seeded(MixtralForCausalLM, config)


def qwen3_moe(*, layers: int = 2) -> nn.Module:
    """Qwen3-MoE: as Mixtral, with more experts and normed queries."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=8,
        num_experts_per_tok=2,
        **_common(),
    )
    return _seeded(Qwen3MoeForCausalLM, config)


def gpt_oss(*, layers: int = 2) -> nn.Module:
    """gpt-oss: experts with biases, their weights kept as inputs by outputs."""
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=4,
        **_common(),
    )
    return _seeded(GptOssForCausalLM, config)


def qwen2_moe(*, layers: int = 2) -> nn.Module:
    """Qwen2-MoE: its shared expert sees all tokens of a batch in one row after another."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    config = Qwen2MoeConfig(
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        **_common(),
    )
    return _seeded(Qwen2MoeForCausalLM, config)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and the target modules that it can be trained on with privacy."""

    build: Callable[..., nn.Module]
    targets: tuple[str, ...]
    task: str = "causal-lm"
    pooling: str = "model"

    def adapted(self, *, layers: int = 2, bfloat16: bool = False, **sections: Any) -> AdaptedModel:
        """The case's model with an adapter as ``make_job`` describes it."""
        job = make_job(targets=self.targets, task=self.task, pooling=self.pooling, **sections)
        kind = {"pooling": self.pooling} if self.build is bert else {}
        return adapt(self.build(layers=layers, **kind), job, bfloat16=bfloat16)

    def examples(self, lengths: Sequence[int] = (3, 5, 7, 9), *, seed: int = 0) -> TokenExamples:
        """Examples of these lengths, with labels if the task has them."""
        return make_examples(lengths, seed=seed, labelled=self.task != "causal-lm")


_LATENT_ATTENTION = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")

CASES = {
    "bert-qv-head": Case(build=bert, targets=("query", "value"), task="sequence-classification"),
    "bert-qv-mean": Case(
        build=bert, targets=("query", "value"), task="sequence-classification", pooling="mean"
    ),
    "llama-qv": Case(build=llama, targets=("q_proj", "v_proj")),
    "llama-all-linear": Case(build=llama, targets=("all-linear",)),
    "gpt2-c_attn": Case(build=gpt2, targets=("c_attn",)),
    "deepseek-attention": Case(build=deepseek, targets=_LATENT_ATTENTION),
}

# Models whose routed experts carry adapters; the first layer of DeepSeek-V3's has none.
ROUTED = {
    "mixtral": Case(build=mixtral, targets=("q_proj", "experts")),
    "qwen3-moe": Case(build=qwen3_moe, targets=("q_proj", "v_proj", "experts")),
    "deepseek-v3": Case(build=deepseek, targets=("q_a_proj", "experts")),
}


# What jobs of language models say of their data, beside where they are.
_DATA: dict[str, dict[str, Any]] = {
    "causal-lm": {},
    "instruction": {"messages": "messages"},
    "preferences": {"prompt": "prompt"},
    "rewards": {"prompt": "prompt", "reward": {"source": "none"}, "max_answer": 4, "samples": 3},
}


def make_job(
    *,
    targets: Sequence[str],
    task: str = "causal-lm",
    pooling: str = "model",
    adapter: dict[str, Any] | None = None,
    **sections: Any,
) -> Job:
    """A job as its file would say it. ``lora`` trains A and B both, so most can go wrong."""
    return parse_job(
        {
            "task": task,
            "model": {"source": "a tiny random model", "pooling": pooling},
            "adapter": {"rank": 2, "target_modules": list(targets), **(adapter or {})},
            "data": {"source": "none", "max_length": 64}
            | _DATA.get(task, {"label": "label", "labels": ["a", "b", "c"]}),
            "strategy": {"name": "lora"},
            **sections,
        }
    )


def adapt(model: nn.Module, job: Job, *, bfloat16: bool = False, offload: bool = False) -> AdaptedModel:
    """The model, frozen as ``load_base_model`` leaves it, with the job's adapter, on the CPU."""
    base = text_base(model.requires_grad_(False), job)
    device = Device(torch=torch.device("cpu"), bfloat16=bfloat16, offload=offload)
    return AdaptedModel(base, job=job, device=device)


def text_base(model: nn.Module, job: Job) -> BaseModel:
    """What the job's task makes of a model without a tokenizer."""
    task = find_task(job.task)
    assert isinstance(task, TextTask)
    language = job.task in _DATA
    loaded = Pretrained(
        model=model,
        tokenizer=None,
        digest="0" * 64,
        head=() if language else (last_layer(model, labels=LABELS),),
        padding=0,
        tokens=count_tokens(model),
        shortest=1,
        limit=longest_text(model),
        drawn=(),
        unused=(),
        remarks=(),
    )
    return task.wrap(loaded, section=section_of(job), peft_type="CAUSAL_LM" if language else None)


def make_examples(lengths: Sequence[int], *, seed: int = 0, labelled: bool = False) -> TokenExamples:
    """Random tokens, none of them the padding, and labels if wanted."""
    random = np.random.default_rng(seed)
    return TokenExamples(
        tokens=random.integers(1, VOCABULARY, sum(lengths)).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=random.integers(0, LABELS, len(lengths)) if labelled else None,
    )


def random_adapter(adapted: AdaptedModel, *, seed: int = 0) -> NDArray[np.float32]:
    """An adapter in which no tensor is zero, so that no gradient is zero by construction."""
    random = np.random.default_rng(seed)
    return (0.2 * random.standard_normal(adapted.layout.adapter_size)).astype(np.float32)


def _common() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "num_labels": LABELS,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
        "use_cache": False,
        "attn_implementation": "eager",
        # A spread of weights that makes attention and layers matter: the usual 0.02 is for wide
        # models, in narrow ones it leaves every layer close to the identity.
        "initializer_range": 0.3,
    }


def _seeded(kind: type[nn.Module], config: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config)
