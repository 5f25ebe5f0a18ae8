"""A job's keys for conversations, and the loss of an answer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.custody.data_set import read_data_set
from client.custody.site_file import DataSource
from privacy.errors import JobError
from tasks.answers import Answer, exact_match, mean_over, rouge_l
from tasks.data.chat import NO_MESSAGES
from tasks.data.chat_tokens import NO_ANSWER, mark_answers
from tasks.data.rows import NO_CONTENT
from tasks.data.token_examples import TokenExamples
from tasks.model.writing import write_on
from tasks.registry import columns_of, find_task, section_of
from tests.models import adapt, llama, make_job, random_adapter
from tests.tasks.data.chat_models import FAMILIES


@pytest.mark.parametrize(
    ("keys", "said"),
    {
        "none": ({}, "data.messages: expected the column of chat messages, or else prompt and completion"),
        "a half": ({"prompt": "p"}, "or else prompt and completion"),
        "both": ({"messages": "m", "prompt": "p", "completion": "c"}, "or else prompt and completion"),
        "an input alone": ({"messages": "m", "input": "i"}, "data.input: expected none without prompt"),
        "packing": ({"messages": "m", "packing": True}, "what is protected is one example"),
        "a key of texts": ({"messages": "m", "label": "l"}, "data.label: unknown key"),
    }.values(),
)
def test_wrong_keys_are_told(keys: dict[str, object], said: str) -> None:
    job = make_job(targets=["q_proj"], task="instruction")
    job = job.model_copy(
        update={"data": type(job.data).model_validate({"source": "none", **keys})},
    )
    with pytest.raises(JobError, match=said.replace(".", r"\.")):
        section_of(job)


def test_a_site_names_columns_and_no_lengths() -> None:
    assert columns_of("instruction", {"messages": "m"}, under="data").model_dump()["messages"] == "m"
    with pytest.raises(JobError, match=r"data\.answers"):
        columns_of("instruction", {"messages": "m", "answers": 3}, under="data")


def test_a_site_hears_which_rows_are_blank_and_why(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    good = '{"messages": [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "2"}]}'
    path.write_text(f'{good}\n{{"messages": "hello"}}\n{{}}\n{good.replace("assistant", "user")}\n')
    source = DataSource(source=str(path), task="instruction", messages="messages")
    data = read_data_set("said", source)
    assert data.blank == {NO_MESSAGES: (1,), NO_CONTENT: (2,)}
    found = data.task.encode(FAMILIES["Llama 3"].reader(), data.rows, labels=())
    assert found.blank == {NO_CONTENT: (1, 2), NO_ANSWER: (3,)}
    assert (found.examples.sizes > 0).tolist() == [True, False, False, False]
    assert data.serves(find_task("instruction"))
    assert not data.serves(find_task("preferences"))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"federation": {"partition": {"dirichlet": 1.0}}}, 'task="instruction" has none'),
        ({"pooling": "mean"}, "model.pooling"),
    ],
)
def test_what_needs_labels_is_refused(sections: dict[str, object], said: str) -> None:
    job = make_job(targets=["q_proj"], task="instruction", **sections)
    assert said in str(find_task("instruction").refuses(job, None))


def test_the_loss_is_the_mean_over_the_answers_tokens() -> None:
    adapted = adapt(llama(), make_job(targets=["q_proj"], task="instruction"))
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    tokens = np.array([3, 9, 4, 7, 11, 2, 8], np.int32)
    learned = np.array([False, False, True, True, False, True, False])
    examples = TokenExamples(
        tokens=tokens, offsets=np.array([0, 7]), labels=None, padding=0, learned=learned
    )
    with torch.no_grad():
        outcome = adapted.forward(examples.batch(np.array([0]), size=9, rows=2))
        logits = adapted.peft(input_ids=torch.from_numpy(tokens.astype(np.int64))[None]).logits[0]
    told = logits.log_softmax(-1)
    nats = [-float(told[place - 1, tokens[place]]) for place in (2, 3, 5)]
    assert float(outcome.losses[0]) == pytest.approx(sum(nats) / 3, rel=1e-5)
    assert outcome.counted[0] == 3
    assert torch.isfinite(outcome.losses).all()  # a blank row's, too


def test_made_up_answers_begin_after_the_first_token() -> None:
    adapted = adapt(llama(), make_job(targets=["q_proj"], task="instruction"))
    made = adapted.task.made_up(adapted, np.random.default_rng(0), np.array([2, 3, 8]))
    assert isinstance(made, TokenExamples)
    assert made.learned is not None
    assert made.learned.tolist() == [False, True] + [False, True, True] + [False] * 4 + [True] * 4


def test_prompts_of_other_lengths_are_answered_as_they_are_alone() -> None:
    adapted = adapt(llama(), make_job(targets=["q_proj"], task="instruction"))
    adapted.load(random_adapter(adapted))
    prompts = [np.array(tokens, np.int32) for tokens in ([3, 4, 5, 6, 7], [9], [12, 2])]

    def write(asked: list[np.ndarray], seed: int | None) -> list[list[int]]:
        found = write_on(adapted, asked, most=6, ends={49}, padding=0, seed=seed)
        return [tokens.tolist() for tokens in found]

    together = write(prompts, None)
    assert together == [write([prompt], None)[0] for prompt in prompts]
    before = torch.get_rng_state()
    assert write(prompts, 1) == write(prompts, 1)
    assert write(prompts, 1) != write(prompts, 2)
    assert torch.equal(torch.get_rng_state(), before)
    ended = together[0][2]
    cut = write_on(adapted, prompts[:1], most=6, ends={ended}, padding=0, seed=None)[0].tolist()
    assert cut == together[0][: together[0].index(ended)]


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin 2004, section 3.1
        ("the gunman kill police", "police kill the gunman", 0.5),
        ("9 apples", "9 apples.", 1.0),
        ("", "9", 0.0),
        ("", "", 0.0),
    ],
)
def test_rouge_l(answer: str, reference: str, score: float) -> None:
    assert rouge_l(answer, reference) == pytest.approx(score)


def test_exact_match_leaves_case_and_punctuation_out() -> None:
    assert exact_match("Nine apples!", "nine apples") == 1.0
    assert exact_match("Nine apples", "Nine pears") == 0.0
    answers = [
        Answer(prompt="", reference="a", greedy=greedy, sampled="") for greedy in ("a", "b", "a", "A")
    ]
    assert mean_over(answers, exact_match) == 0.75
    assert math.isclose(mean_over(answers, rouge_l), 0.75)


@pytest.mark.parametrize("task", ["instruction", "preferences"])
def test_the_last_layer_is_computed_where_an_answer_is_and_nothing_changes(task: str) -> None:
    adapted = adapt(llama(), make_job(targets=["q_proj"], task=task))
    adapted.load(random_adapter(adapted))
    adapted.peft.eval()
    adapted.spec = replace(adapted.spec, data={**adapted.spec.data, "max_answer": 5})
    made = adapted.task.made_up(adapted, np.random.default_rng(0), np.array([4, 9, 20]))
    batch, seen = made.batch(np.arange(3), rows=4), []
    head = adapted.peft.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    with torch.no_grad():
        few = adapted.forward(batch)
        adapted.spec = replace(adapted.spec, data={**adapted.spec.data, "max_answer": None})
        whole = adapted.forward(batch)
    handle.remove()
    assert set(seen) == {5, 20}
    torch.testing.assert_close(few.losses[:3], whole.losses[:3], rtol=1e-5, atol=1e-6)
    assert few.correct.tolist() == whole.correct.tolist()
    assert few.counted.tolist() == whole.counted.tolist()


def test_of_a_long_answer_the_first_tokens_are_learned() -> None:
    reader = replace(FAMILIES["Llama 3"].reader(), max_answer=3)
    found = mark_answers(reader, (("user", "Hi"),), (("assistant", "Hello"),))
    assert found.learned.sum() == 3
    assert reader.tokenizer.decode(found.tokens[found.learned].tolist()) == "Hel"
