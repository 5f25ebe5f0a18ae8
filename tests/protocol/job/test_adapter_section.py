"""The keys of [adapter]: patterns as PEFT reads them, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from privacy.errors import JobError
from protocol.job.adapter_section import AdapterSection
from protocol.job.job_file import parse_job

LAYERS = ["encoder.layer.1.attention.self.query", "encoder.layer.11.attention.self.query", "h.0.c_attn"]
ENDS = [
    "query",
    "self.query",
    "layer.1.attention.self.query",
    "1.attention.self.query",
    "attn",
    "c.attn",
    "uery",
]


def parse(**adapter: Any) -> None:
    parse_job(
        {
            "model": {"source": "x"},
            "adapter": {"target_modules": ["query"]} | adapter,
            "data": {"source": "x", "label": "l", "labels": ["a", "b"]},
        }
    )


@settings(max_examples=50, deadline=None)
@given(
    ranks=st.dictionaries(st.sampled_from(ENDS), st.integers(1, 64), max_size=4),
    layer=st.sampled_from(LAYERS),
    scaling=st.sampled_from(["lora", "rslora"]),
)
def test_a_pattern_gives_a_layer_the_rank_that_peft_gives_it(
    ranks: dict[str, int], layer: str, scaling: Any
) -> None:
    section = AdapterSection(
        target_modules=["query"], rank=5, alpha=3.0, scaling=scaling, rank_pattern=ranks
    )
    rank = ranks.get(get_pattern_key(list(ranks), layer), 5)
    assert section.rank_of(layer) == section.rank_of(f"base_model.model.{layer}") == rank
    assert section.scale_of(layer) == pytest.approx(3.0 / (rank if scaling == "lora" else rank**0.5))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"kind": "dora"}, "adapter.kind: 'dora' is not supported: its layers divide by a norm"),
        ({"peft_type": "LoHa"}, "'LoHa' is not supported: its update is no product"),
        ({"kind": "ada-lora"}, "it moves rank between layers"),
        ({"method": "lokr"}, "'lokr' is not supported"),
        ({"type": "lora"}, r"\[adapter\] describes LoRA: leave the key out"),
        ({"use_dora": True}, "adapter.use_dora: DoRA is not supported"),
        ({"use_rslora": True}, 'it is scaling = "rslora" here'),
        ({"lora_alpha": 8}, 'adapter.lora_alpha: it is called "alpha" here'),
        ({"target_parameters": ["w"]}, 'named in target_modules, as "experts"'),
        ({"modules_to_save": ["x"]}, "follows from the task"),
        ({"init": "eva"}, "adapter.init: 'eva' is not supported: it reads examples before the first step"),
        ({"init": "loftq"}, "quantizes the base model"),
        ({"init": "zeros"}, "adapter.init: expected 'orthonormal', 'pissa' or 'olora'"),
        ({"bias": "some"}, "adapter.bias: expected 'none', 'lora_only' or 'all'"),
        ({"rank_pattern": {"query": 0}}, "adapter.rank_pattern.query"),
        ({"rank_pattern": {"(a+)+": 1}}, "adapter.rank_pattern.*expected to match pattern"),
        ({"alpha_pattern": {"query": float("nan")}}, "adapter.alpha_pattern.query"),
        ({"use_doar": True}, "unknown key"),
    ],
)
def test_what_peft_has_and_this_has_not_is_refused_by_name(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        parse(**keys)


def test_fedsb_has_a_start_of_its_own() -> None:
    with pytest.raises(JobError, match=r'adapter\.init: expected "orthonormal" with strategy.name="fedsb"'):
        parse_job(
            {
                "model": {"source": "x"},
                "adapter": {"target_modules": ["query"], "init": "pissa"},
                "data": {"source": "x", "label": "l", "labels": ["a", "b"]},
                "strategy": {"name": "fedsb"},
            }
        )
