"""Pairs of answers: how they are read, and the losses of DPO and IPO."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privacy.errors import JobError, ModelError
from protocol.job.data_section import SourceKeys
from tasks.data.chat import NO_MESSAGES
from tasks.data.chat_tokens import CUT_OFF
from tasks.data.grouped_examples import GroupedExamples
from tasks.data.rows import NO_CONTENT, Rows
from tasks.preferences import NO_DIFFERENCE, TASK, PreferenceColumns
from tasks.registry import section_of
from tests.models import adapt, llama, make_job, random_adapter
from tests.tasks.data.chat_models import FAMILIES

ASKED, GOOD, BAD = (("user", "Hi"),), (("assistant", "Hello"),), (("assistant", "Go"),)


def messages(*said: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for part in said for role, text in part]


def read(tmp_path: Path, rows: list[Any], **columns: str) -> Any:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TASK.read(SourceKeys(source=str(path)), PreferenceColumns(**columns))


def test_a_prompt_of_its_own_and_one_that_both_begin_with(tmp_path: Path) -> None:
    own = read(
        tmp_path,
        [
            {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
            {"prompt": messages(ASKED), "chosen": messages(GOOD), "rejected": "Go"},
            {"prompt": "Hi", "chosen": "", "rejected": "Go"},
        ],
        prompt="prompt",
    )
    assert own.contents == ((ASKED, GOOD, BAD), (ASKED, GOOD, BAD), None)
    whole = read(
        tmp_path,
        [
            {"chosen": messages(ASKED, GOOD), "rejected": messages(ASKED, BAD)},
            {"chosen": messages(GOOD), "rejected": messages(BAD)},
            {"chosen": messages(ASKED, GOOD), "rejected": messages(ASKED, GOOD)},
        ],
    )
    assert whole.contents == ((ASKED, GOOD, BAD), None, None)
    assert whole.faults == {1: NO_MESSAGES, 2: NO_MESSAGES}


def test_which_answer_is_preferred_makes_no_other_example() -> None:
    assert TASK.digest((ASKED, GOOD, BAD)) == TASK.digest((ASKED, BAD, GOOD))
    others = [(ASKED, GOOD, GOOD), ((), ASKED + GOOD, BAD), (GOOD, ASKED, BAD), None]
    assert len({TASK.digest(content) for content in [(ASKED, GOOD, BAD), *others]}) == 5


def test_a_pair_is_two_rows_and_a_blank_row_makes_it_blank() -> None:
    reader = FAMILIES["Llama 3"].reader(max_length=40)
    long = (("user", "Hi" * 30),)
    rows = Rows(contents=((ASKED, GOOD, BAD), None, (ASKED, GOOD, GOOD), (long, GOOD, BAD)))
    found = TASK.encode(reader, rows, labels=())
    assert found.blank == {NO_CONTENT: (1,), NO_DIFFERENCE: (2,), CUT_OFF: (3,)}
    examples = found.examples
    assert isinstance(examples, GroupedExamples)
    assert examples.sizes[1:].tolist() == [0, 0, 0]
    batch = examples.take(np.array([0])).batch(np.array([0]), rows=3)
    assert batch.inputs["input_ids"].shape == (3, 2, examples.sizes[0])
    assert batch.rows_an_example == 2
    assert batch.inputs["learned"][0].sum(1).tolist() == [6, 3]  # Hello, Go, and what ends each


def pairs(count: int = 3) -> tuple[Any, Any]:
    adapted = adapt(llama(), make_job(targets=["q_proj", "v_proj"], task="preferences"))
    made = adapted.task.made_up(adapted, np.random.default_rng(1), np.arange(5, 5 + count))
    return adapted, made


def log_probabilities(model: Any, examples: Any) -> torch.Tensor:
    """Row by row, token by token: [n, 2]."""
    found = []
    for index in range(2 * len(examples)):
        row = examples.rows.take(np.array([index]))
        tokens = torch.from_numpy(row.tokens.astype(np.int64))
        told = model(input_ids=tokens[None]).logits[0].float().log_softmax(-1)
        found.append(sum(told[place - 1, tokens[place]] for place in np.flatnonzero(row.learned)))
    return torch.stack(found).reshape(-1, 2)


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
@torch.no_grad()
def test_the_loss_is_that_of_the_paper(loss: str) -> None:
    adapted, made = pairs()
    beta = 0.3
    adapted.spec = replace(adapted.spec, data={**adapted.spec.data, "loss": loss, "beta": beta})
    adapted.peft.eval()
    adapted.load(adapted.initial_adapter(0))
    base = log_probabilities(adapted.peft, made)
    adapted.load(random_adapter(adapted))
    now = log_probabilities(adapted.peft, made)
    found = adapted.forward(made.batch(np.arange(3), rows=4))
    apart = (now[:, 0] - base[:, 0]) - (now[:, 1] - base[:, 1])
    expected = (
        -torch.log(1 / (1 + torch.exp(-beta * apart))) if loss == "dpo" else (apart - 1 / (2 * beta)) ** 2
    )
    torch.testing.assert_close(found.losses[:3], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.margins[:3], beta * apart, rtol=1e-4, atol=1e-5)
    assert found.correct[:3].tolist() == (now[:, 0] > now[:, 1]).long().tolist()


def test_the_reference_is_the_base_model_whatever_is_trained() -> None:
    adapted, made = pairs()
    batch = made.batch(np.arange(3))
    adapted.load(adapted.initial_adapter(0))
    start = adapted.task.reference(adapted, batch)
    trained = {name: p.requires_grad for name, p in adapted.peft.named_parameters()}
    adapted.load(random_adapter(adapted))
    torch.testing.assert_close(adapted.task.reference(adapted, batch), start, rtol=1e-5, atol=1e-5)
    assert {name: p.requires_grad for name, p in adapted.peft.named_parameters()} == trained
    assert float(adapted.forward(batch).margins.abs().max()) > 1e-3


def test_before_training_the_loss_is_that_of_a_coin() -> None:
    adapted, made = pairs()
    adapted.load(adapted.initial_adapter(0))
    adapted.peft.eval()
    with torch.no_grad():
        outcome = adapted.forward(made.batch(np.arange(3)))
    assert outcome.losses.tolist() == pytest.approx([math.log(2)] * 3, abs=1e-6)


@pytest.mark.parametrize(
    ("adapter", "said"), [({"init": "pissa"}, "adapter.init"), ({"bias": "all"}, "adapter.bias")]
)
def test_what_would_move_the_reference_is_refused(adapter: dict[str, str], said: str) -> None:
    job = make_job(targets=["q_proj"], task="preferences", adapter=adapter)
    assert str(TASK.refuses(job, None)).startswith(said)


@pytest.mark.parametrize("key", ["loss", "beta"])
def test_wrong_keys_are_told(key: str) -> None:
    job = make_job(targets=["q_proj"], task="preferences")
    wrong = {"loss": "kto", "beta": 0.0}[key]
    data = type(job.data).model_validate({"source": "none", key: wrong})
    with pytest.raises(JobError, match=rf"data\.{key}"):
        section_of(job.model_copy(update={"data": data}))


def test_what_cannot_be_left_out_is_refused() -> None:
    adapted, made = pairs()
    name = next(iter(adapted._parameters))
    adapted._parameters[name] = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ModelError, match="cannot be left out"):
        adapted.forward(made.batch(np.arange(3)))
