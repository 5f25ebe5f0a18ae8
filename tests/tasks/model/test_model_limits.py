"""How long a text a model can take, and which tokens: found on the model, whatever its parts are called."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from privacy.errors import ModelError
from tasks.model.model_limits import check_tokenizer, count_tokens, longest_text
from tests import models

ROWS = 20
BERT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": ROWS,
}
GPT: dict[str, Any] = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": ROWS}


def named(kind: str, head: str = "ForSequenceClassification", **values: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(**values)
    return getattr(transformers, f"{kind}{head}")(config).eval()


def gemma() -> Any:
    """A model of several parts, of which one reads text."""
    text = BERT | {"head_dim": 8, "num_key_value_heads": 1, "pad_token_id": 0}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    return named("Gemma3", "ForConditionalGeneration", text_config=text, vision_config=vision)


LIMITS: dict[str, tuple[Callable[[], Any], int | None]] = {
    "bert": (lambda: named("Bert", **BERT), ROWS),
    "distilbert": (
        lambda: named(
            "DistilBert",
            vocab_size=50,
            dim=16,
            hidden_dim=32,
            n_layers=1,
            n_heads=2,
            max_position_embeddings=ROWS,
        ),
        ROWS,
    ),
    # These begin to count after the padding's row.
    **{
        kind: (lambda kind=kind: named(kind, **BERT, pad_token_id=1), ROWS - 2)
        for kind in ("Roberta", "Camembert", "MPNet", "Esm")
    },
    "roberta whose padding is 3": (lambda: named("Roberta", **BERT, pad_token_id=3), ROWS - 4),
    # It pads by itself, to a multiple of its window.
    "longformer": (lambda: named("Longformer", **BERT, pad_token_id=1, attention_window=4), ROWS - 2),
    # Two rows more than the config says, which are not for texts.
    "opt": (
        lambda: named("OPT", "ForCausalLM", **BERT, ffn_dim=32, word_embed_proj_dim=16, pad_token_id=1),
        ROWS,
    ),
    "gpt2, by another name": (lambda: named("GPT2", "LMHeadModel", **GPT), ROWS),
    "llama, rotary": (models.llama, 64),
    "bloom, none": (lambda: named("Bloom", "ForCausalLM", vocab_size=50, hidden_size=16, n_layer=1), None),
    "mpt, none": (
        lambda: named("Mpt", "ForCausalLM", vocab_size=50, d_model=16, n_heads=2, n_layers=1),
        None,
    ),
    "gemma, inside": (gemma, ROWS),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_is_what_the_model_can_take(name: str) -> None:
    build, limit = LIMITS[name]
    model = build()
    assert longest_text(model) == limit
    if limit is None:
        return
    # Some of rotary positions could be run on more; none on less.
    text = torch.full((1, limit), 5)
    with torch.no_grad():
        assert model(input_ids=text, attention_mask=torch.ones_like(text)).logits.isfinite().all()


@pytest.mark.parametrize("name", ["bert", "Roberta", "longformer", "opt", "gpt2, by another name"])
def test_one_token_more_fails(name: str) -> None:
    build, limit = LIMITS[name]
    assert limit is not None
    model = build()
    text = torch.full((1, limit + 1), 5)
    with pytest.raises((IndexError, RuntimeError)), torch.no_grad():
        model(input_ids=text, attention_mask=torch.ones_like(text))


class Positions(nn.Module):
    """A model that nobody has heard of: an own name for its table, and counting from ``begin``."""

    def __init__(self, rows: int, begin: int, *, relative: bool = False) -> None:
        super().__init__()
        self.words, self.where = nn.Embedding(50, 4), nn.Embedding(rows, 4)
        self.begin, self.relative = begin, relative
        self.config = SimpleNamespace(pad_token_id=0)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        places = torch.arange(input_ids.shape[1])
        if self.relative:
            far = (places[:, None] - places[None, :]).abs().clamp(max=len(self.where.weight) - 1)
            return self.words(input_ids) + self.where(far).sum(1)
        return self.words(input_ids) + self.where(places + self.begin)


def test_a_table_is_known_by_its_use() -> None:
    assert longest_text(Positions(30, 0)) == 30
    assert longest_text(Positions(30, 7)) == 23
    assert longest_text(Positions(8, 0, relative=True)) is None


def test_a_model_that_cannot_be_run_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be run on a text of 2 tokens"):
        longest_text(Positions(1, 1))


def test_tokens_are_counted_by_rows_and_not_by_the_config() -> None:
    model = named("Bert", **BERT)
    model.config.vocab_size = 1000
    assert count_tokens(model) == 50
    assert count_tokens(gemma()) == 50
    language = models.gpt2()
    language.set_output_embeddings(nn.Linear(16, 40, bias=False))
    assert count_tokens(language) == 40


class Tokens:
    """As much of a tokenizer as is looked at."""

    def __init__(self, vocabulary: dict[str, int], around: list[int], padding: int | None) -> None:
        self.get_vocab = lambda: vocabulary
        self.around, self.pad_token_id = around, padding
        self.all_special_tokens = ["<pad>"]

    def __call__(self, _text: str) -> dict[str, list[int]]:
        return {"input_ids": self.around}


@pytest.mark.parametrize(
    ("vocabulary", "around", "padding"),
    [
        ({"a": 0, "b": 50}, [1], 0),  # a gap, so that it has two tokens and the model 50
        ({"a": 0, "b": 2**31}, [1], 0),
        ({"a": 0}, [1, 50], 0),
        ({"a": 0, "pad": 51, "b": 50}, [1], 51),
    ],
)
def test_a_token_without_a_row_is_refused(
    vocabulary: dict[str, int], around: list[int], padding: int
) -> None:
    with pytest.raises(ModelError, match="the tokenizer makes tokens up to"):
        check_tokenizer(Tokens(vocabulary, around, padding), tokens=50)


@pytest.mark.parametrize("padding", [None, 0, 50, -1])
def test_tokens_with_rows_pass_whatever_the_padding(padding: int | None) -> None:
    pads = {} if padding is None else {"pad": padding}
    check_tokenizer(Tokens({"a": 0, "b": 49} | pads, [49], padding), tokens=50)
