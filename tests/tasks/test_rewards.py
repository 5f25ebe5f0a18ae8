"""Prompts that a model answers itself: how they are read, what is drawn, and what an answer is worth."""

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
from protocol.job.job_file import beside
from tasks.answered_prompts import parts_of
from tasks.data.chat import NO_MESSAGES
from tasks.data.chat_tokens import NO_ROOM, turn_ends
from tasks.data.rows import NO_CONTENT, Rows
from tasks.data.token_examples import TokenExamples
from tasks.language import tell_answers
from tasks.model.adapted_model import AdaptedModel
from tasks.model.device import Device
from tasks.model.drawn_answers import can_go_on, draw_answers, numbers_for
from tasks.model.judge import load_judge
from tasks.registry import section_of
from tasks.reward_keys import PromptColumns
from tasks.rewards import TASK, advantages, distances
from tests.models import gpt2, llama, make_job, random_adapter
from tests.tasks.data.chat_models import FAMILIES
from tests.tasks.judged import END, judged_model, prompts, write_judge

ASKED = (("user", "Hi"),)
CPU = Device(torch=torch.device("cpu"), bfloat16=False)


def job_of(*, adapter: Any = None, metrics: Any = None, **data: Any) -> Any:
    keys = {"source": "none", "prompt": "p", "reward": {"source": "none"}} | data
    more = {} if metrics is None else {"metrics": metrics}
    return make_job(targets=["q_proj"], task="rewards", adapter=adapter, data=keys, **more)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline": "batch"}, "would leave none with a gradient of its own"),
        ({"samples": 1}, "expected a number with samples = 1"),
        ({"max_answer": 127}, "max_answer: expected at most 126"),
        ({"messages": "m"}, "expected either prompt or messages"),
        ({"constraint": {"source": "x"}}, "least"),
        ({"adapter": {"init": "pissa"}}, "adapter.init: expected .*before its training"),
        ({"metrics": {"epsilon": 1.0}}, "metrics.epsilon: expected 0"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        section_of(job_of(**changes))


def test_one_answer_with_a_constant_baseline_is_taken() -> None:
    section: Any = section_of(job_of(samples=1, baseline=0))
    assert section.baseline == 0.0


def test_a_judge_beside_the_job_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    job = beside(job_of(reward={"source": "judge"}), tmp_path)
    assert section_of(job).reward.source == str((tmp_path / "judge").resolve())  # type: ignore[attr-defined]


def test_prompts_and_conversations_are_read(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = tmp_path / "rows.jsonl"
    rows: list[Any] = [{"p": "Hi", "m": said}, {"p": said[:1], "m": said[1:]}, {"p": "", "m": [{}]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = SourceKeys(source=str(path))
    assert TASK.read(data, PromptColumns(prompt="p")).contents == ((ASKED,), (ASKED,), None)
    found = TASK.read(data, PromptColumns(messages="m"))
    assert found.contents == ((ASKED,), None, None)
    assert found.faults == {1: NO_MESSAGES, 2: NO_MESSAGES}
    assert TASK.digest((ASKED,)) != TASK.digest(None)


def test_a_prompt_has_places_for_its_answers_and_a_long_one_is_blank() -> None:
    reader = replace(FAMILIES["Llama 3"].reader(max_length=30), max_answer=4, endings=3)
    found = TASK.encode(reader, Rows(contents=((ASKED,), None, ((("user", "Hi" * 9),),))), labels=())
    assert found.blank == {NO_CONTENT: (1,), NO_ROOM: (2,)}
    examples: Any = found.examples
    asked = reader.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    known = examples.branches == 0
    assert reader.tokenizer.decode(examples.tokens[known]) == asked
    assert examples.branches[~known].tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert examples.learned.tolist() == (~known).tolist()
    ends = reader.tokenizer.convert_ids_to_tokens(turn_ends(reader))
    assert ends == ["<|eot_id|>"]


@pytest.fixture(scope="module")
def adapted() -> AdaptedModel:
    found = judged_model()
    found.load(random_adapter(found))
    found.peft.eval()
    return found


def test_each_token_is_drawn_by_its_number_from_what_the_model_says(adapted: AdaptedModel) -> None:
    prompt = np.array([3, 9, 4], np.int32)
    numbers = numbers_for(1, 0, answers=3, most=6)
    found = draw_answers(adapted, prompt, numbers, ends=(END,), padding=0)
    assert found.learned[:, 0].all()
    for row in range(3):
        text = prompt.tolist()
        for place in range(6):
            if not found.learned[row, place]:
                assert found.tokens[row, place] == 0
                assert END in found.tokens[row, :place]
                continue
            with torch.no_grad():
                logits = adapted.peft(input_ids=torch.tensor([text])).logits[0, -1].double()
            cumulated = logits.softmax(0).cumsum(0)
            token = int(torch.searchsorted(cumulated, float(numbers[row, place]), right=True))
            assert found.tokens[row, place] == token
            assert found.nats[row, place] == pytest.approx(-float(logits.log_softmax(0)[token]), abs=1e-4)
            text.append(token)


def test_what_is_drawn_has_the_models_own_probabilities(adapted: AdaptedModel) -> None:
    prompt, draws = np.array([3, 9], np.int32), (np.arange(4000) + 0.5)[:, None] / 4000
    found = draw_answers(adapted, prompt, draws, ends=(), padding=0)
    with torch.no_grad():
        expected = adapted.peft(input_ids=torch.tensor([[3, 9]])).logits[0, -1].softmax(0)
    shares = np.bincount(found.tokens[:, 0], minlength=len(expected)) / 4000
    np.testing.assert_allclose(shares, expected.numpy(), atol=1 / 4000)


def test_writing_takes_as_long_whatever_is_said(adapted: AdaptedModel) -> None:
    """Who chooses the adapter could have answers end by what a prompt says, and would see how soon."""
    prompt, numbers = np.array([3, 9, 4], np.int32), numbers_for(1, 0, answers=3, most=6)
    passes: list[int] = []
    handle = adapted.peft.register_forward_hook(lambda *_: passes.append(1))
    try:
        for ends in ((), tuple(range(1000))):
            passes.clear()
            found = draw_answers(adapted, prompt, numbers, ends=ends, padding=0)
            assert len(passes) == 6
            assert found.learned.sum() == (18 if not ends else 3)
    finally:
        handle.remove()


def written(adapted: AdaptedModel, places: list[int], *, seed: int = 5) -> torch.Tensor:
    """Tokens and numbers of the examples at these places, in order, which are asked for together."""
    adapter = random_adapter(adapted)
    found = TASK.complete(adapted, prompts(adapted), adapter=adapter, seed=seed)
    batch = found.batch(np.array(places), size=24, rows=8)
    return torch.cat([batch.inputs[name].double() for name in ("input_ids", "targets")], dim=1)


def answers_of_one_depend_on_it_alone(adapted: AdaptedModel) -> bool:
    whole = written(adapted, [0, 1, 2, 3])
    others = [written(adapted, [2, 0]), written(adapted, [2])]
    return all(torch.equal(one[0], whole[2]) for one in others)


def test_an_examples_answers_are_the_same_bits_whoever_else_is_drawn(adapted: AdaptedModel) -> None:
    assert answers_of_one_depend_on_it_alone(adapted)
    assert not torch.equal(written(adapted, [2])[0], written(adapted, [2], seed=6)[0])


def test_one_stream_for_all_examples_would_show(
    adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mistake: what an example draws depends on who was drawn before it."""
    stream = np.random.default_rng(0)
    monkeypatch.setattr(
        "tasks.answered_prompts.numbers_for", lambda *_, answers, most: stream.random((answers, most))
    )
    assert not answers_of_one_depend_on_it_alone(adapted)


def test_writing_leaves_the_model_as_it_was(adapted: AdaptedModel) -> None:
    before = adapted.now()
    adapted.peft.train()
    found = TASK.complete(adapted, prompts(adapted), adapter=random_adapter(adapted, seed=9), seed=1)
    found.batch(np.arange(2))
    assert adapted.peft.training
    np.testing.assert_array_equal(adapted.now(), before)
    adapted.peft.eval()
    # What is taken out has the same answers.
    again = found.take(np.array([1, 3])).batch(np.array([0]))
    assert torch.equal(again.inputs["targets"], found.batch(np.array([1])).inputs["targets"])


def test_likelihoods_are_those_of_each_answer_alone(adapted: AdaptedModel) -> None:
    examples = TASK.complete(adapted, prompts(adapted), adapter=adapted.now(), seed=2)
    batch = examples.batch(np.array([1, 0]), size=24, rows=4)
    with torch.no_grad():
        nats, counted = tell_answers(adapted, batch, endings=3, most=4)
    _, _, before, _ = parts_of(batch.inputs["targets"], 3, 4)
    torch.testing.assert_close(-nats, before, atol=1e-4, rtol=0)
    known = (batch.inputs["branches"][0] == 0) & (batch.inputs["attention_mask"][0] > 0)
    stem = batch.inputs["input_ids"][0][known]
    for answer in range(3):
        own = batch.inputs["input_ids"][0][batch.inputs["branches"][0] == answer + 1]
        with torch.no_grad():
            logits = adapted.peft(input_ids=torch.cat([stem, own])[None]).logits[0]
        alone = -logits.log_softmax(-1)[len(stem) - 1 : -1].gather(1, own[:, None])[:, 0]
        torch.testing.assert_close(nats[0, answer], alone * counted[0, answer], atol=1e-4, rtol=1e-4)


def test_what_training_began_with_is_no_distance_away(adapted: AdaptedModel) -> None:
    """After a warm start answers are held to that adapter, and not to the bare base model."""
    start = random_adapter(adapted)
    apart = parts_of(written_targets(adapted, start), 3, 4)
    assert not torch.allclose(apart[2], apart[3], atol=1e-3)
    adapted.begin_with(start)
    begun = parts_of(written_targets(adapted, start), 3, 4)
    adapted._reference.begin_with({})
    torch.testing.assert_close(begun[2], begun[3], atol=1e-4, rtol=0)


def written_targets(adapted: AdaptedModel, adapter: Any) -> torch.Tensor:
    found = TASK.complete(adapted, prompts(adapted), adapter=adapter, seed=2)
    return found.batch(np.array([1, 0]), size=24, rows=4).inputs["targets"]


def test_the_loss_is_that_of_the_paper() -> None:
    adapted = judged_model(constraint=True, beta=0.1, clip=0.1)
    adapted.load(random_adapter(adapted))
    made = adapted.task.made_up(adapted, np.random.Generator(np.random.PCG64(0)), np.array([20]))
    assert isinstance(made, TokenExamples)
    assert made.targets is not None
    batch = made.batch(np.arange(1))
    with torch.no_grad():
        loss = float(adapted.forward(batch).losses)
        nats, counted = (part[0].tolist() for part in tell_answers(adapted, batch, endings=3, most=4))
    scores, kept, before, base = (part[0].tolist() for part in parts_of(batch.inputs["targets"], 3, 4))
    rewards = [score - 2.0 * (1 - whole) for score, whole in zip(scores, kept, strict=True)]
    total = 0.0
    for row in range(3):
        gain = rewards[row] - (sum(rewards) - rewards[row]) / 2
        for place in range(4):
            if counted[row][place]:
                now = -nats[row][place]
                ratio = math.exp(now - before[row][place])
                apart = base[row][place] - now
                total += min(ratio * gain, min(max(ratio, 0.9), 1.1) * gain)
                total -= 0.1 * (math.exp(apart) - apart - 1)
    assert loss == pytest.approx(-total / 12, rel=1e-4)


def test_a_baseline_is_of_one_example() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert advantages(rewards, "others").tolist() == [[-3.0, -1.5, 4.5], [-1.5, -1.5, 3.0]]
    assert advantages(rewards, 1.0).tolist() == [[0.0, 1.0, 5.0], [-1.0, -1.0, 2.0]]
    assert float(distances(torch.tensor(0.0))) == 0.0


def test_held_out_prompts_say_what_answers_are_worth() -> None:
    adapted = judged_model(constraint=True)
    adapted.load(np.zeros_like(random_adapter(adapted)))
    adapted.peft.eval()
    batch = prompts(adapted).batch(np.arange(3))
    with torch.no_grad():
        found: Any = adapted.forward(batch)
        again: Any = adapted.forward(batch)
    assert torch.equal(found.rewards, again.rewards)
    torch.testing.assert_close(found.distances, torch.zeros(3), atol=1e-4, rtol=0)  # it is the base model
    sums = found.sums()
    assert sums["counted"] == 3
    worth = sums["rewards"] - 2.0 * (3 - sums["kept"])
    assert sums["nats"] == pytest.approx(-worth, abs=1e-3)
    assert set(adapted.base.beside.reward.asked) == set(adapted.base.beside.constraint.asked)
    adapted.load(random_adapter(adapted))
    with torch.no_grad():
        moved: Any = adapted.forward(batch)
    assert (moved.distances > 0.01).all()
    measures = {measure.name: measure.of(moved.sums()) for measure in TASK.measures}
    assert measures["reward"] == pytest.approx(float(moved.rewards.mean()))
    assert 0.0 <= measures["kept"] <= 1.0


def test_a_prompt_that_the_model_fails_on_has_no_worth(
    adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a model's code")

    monkeypatch.setattr("tasks.answered_prompts.draw_answers", fails)
    found = TASK.complete(adapted, prompts(adapted), adapter=adapted.now(), seed=1)
    losses = adapted.forward(found.batch(np.arange(2), rows=3)).losses
    assert losses[:2].isnan().all()
    assert losses[2].isfinite()


def test_models_that_cannot_go_on_with_a_text_are_told_apart() -> None:
    class Forgetful(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = llama()

        def forward(self, **given: Any) -> Any:
            given.pop("past_key_values", None)
            return self.inside(**given)

    assert all(can_go_on(build(), padding=0, tokens=50) for build in (llama, gpt2))
    assert not can_go_on(Forgetful(), padding=0, tokens=50)


def test_a_judge_is_loaded_whole_and_known_by_its_digest(tmp_path: Path) -> None:
    def load(name: str, label: str | None = "good") -> Any:
        return load_judge(job_of(), source=str(tmp_path / name), label=label, key="data.reward", device=CPU)

    write_judge(tmp_path / "one")
    write_judge(tmp_path / "other", seed=1)
    write_judge(tmp_path / "single", labels=["worth"])
    judge = load("one")
    scores = judge.scores(["abc", "a", "", "x" * 99])
    assert ((scores > 0) & (scores < 1)).all()
    np.testing.assert_allclose(load("one", "bad").scores(["abc"]), 1 - scores[:1], atol=1e-6)
    np.testing.assert_allclose(judge.scores(["x" * 32, "x" * 40])[:1], scores[3:], atol=1e-6)
    assert load("single", None).scores(["abc"]).shape == (1,)
    assert judge.digest == load("one", "bad").digest != load("other").digest
    with pytest.raises(ModelError, match=r"data\.reward\.label: expected one of 'bad', 'good', got 'nice'"):
        load("one", "nice")
    with pytest.raises(ModelError, match=r"data\.reward\.source=.*no such folder"):
        load("none")
