"""Both answers of a pair in one row: the same numbers as in two, one example, and models that cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from client.training.gradient_check import check_gradients, comparable
from client.training.gradients import HookedGradients, OneByOne, alone, losses
from client.training.stacked_gradients import StackedGradients
from client.training.unit_check import check_privacy_unit
from privacy.errors import UserError
from runs.attributions import attribute
from tasks.data.chat_tokens import CUT_OFF, Marked, joined
from tasks.data.forked_rows import fork, longest_fork, trimmed
from tasks.data.grouped_examples import GroupedExamples
from tasks.data.rows import NO_CONTENT, Rows
from tasks.data.shapes import Shapes
from tasks.data.token_examples import TokenExamples
from tasks.model.adapted_model import AdaptedModel
from tasks.model.forked_pass import ForkedPass, can_fork
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.preferences import NO_DIFFERENCE, TASK
from tests.models import adapt, gpt2, gpt_oss, llama, make_job, random_adapter, text_base
from tests.tasks.data.chat_models import FAMILIES

TARGETS = {llama: ("q_proj", "v_proj"), gpt2: ("c_attn",)}
# What both answers begin with, and how each ends: tokens, and which of them are learned.
PAIRS = (
    ([5, 6, 7, 8], [9, 10], [11, 12, 13]),
    ([5, 7], [20, 21, 22, 23], [24]),
    ([30, 31, 32, 33, 34, 35], [36], [37, 38]),
)


def marked(tokens: list[int], *, learned_from: int) -> Marked:
    return Marked(tokens=np.array(tokens, np.int32), learned=np.arange(len(tokens)) >= learned_from)


def both_forms(pairs: Any = PAIRS) -> tuple[TokenExamples, GroupedExamples]:
    """The same pairs as one row each and as two; an answer begins with the last shared token."""
    found = [
        [marked(stem + ending, learned_from=len(stem) - 1) for ending in endings]
        for stem, *endings in pairs
    ]
    forked = joined([fork(*pair, most=30) for pair in found], padding=0)
    rows = joined([one for pair in found for one in pair], padding=0)
    return forked, GroupedExamples(rows=rows, together=2)


def model(build: Any = llama, *, layers: int = 2, forks: bool = True, **sections: Any) -> AdaptedModel:
    data = {"source": "none", "prompt": "prompt", "max_length": 16}
    job = make_job(targets=TARGETS[build], task="preferences", data=data, **sections)
    adapted = adapt(build(layers=layers), job)
    adapted.base = replace(adapted.base, reader=replace(adapted.base.reader, forks=forks))
    adapted.sizes = TASK.sizes(adapted.base, TASK.Section(max_length=16))
    adapted.load(random_adapter(adapted))
    return adapted


def test_what_is_shared_stands_once_and_endings_alone_are_learned() -> None:
    found = fork(
        marked([1, 2, 3, 4], learned_from=1),
        marked([1, 2, 5, 6, 7], learned_from=1),
        most=longest_fork(9, None),
    )
    assert found.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.branches is not None
    assert found.branches.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert found.learned.tolist() == [False, False, True, True, True, True, True]
    # One that the other goes on from has no ending of its own.
    shorter = fork(marked([1, 2], learned_from=1), marked([1, 2, 5], learned_from=1), most=9)
    assert shorter.branches is not None
    assert shorter.branches.tolist() == [0, 0, 2]


@pytest.mark.parametrize(("most", "kept"), [(20, (9, 3)), (12, (7, 3)), (8, (3, 3)), (6, (2, 2))])
def test_endings_that_do_not_fit_are_cut_the_longer_one_first(most: int, kept: tuple[int, int]) -> None:
    first = marked([1, 2, *range(10, 19)], learned_from=2)
    second = marked([1, 2, *range(20, 23)], learned_from=2)
    found = fork(first, second, most=most)
    assert found.branches is not None
    assert np.bincount(found.branches, minlength=3).tolist() == [2, *kept]
    assert longest_fork(10, None) == 19
    assert longest_fork(10, 4) == 14


def test_pairs_are_read_as_forks_and_a_blank_answer_makes_one_blank() -> None:
    reader = replace(FAMILIES["Llama 3"].reader(max_length=40), forks=True)
    asked, good, bad = (("user", "Hi"),), (("assistant", "Hello"),), (("assistant", "Go"),)
    rows = Rows(
        contents=((asked, good, bad), None, (asked, good, good), ((("user", "Hi" * 30),), good, bad))
    )
    found = TASK.encode(reader, rows, labels=())
    assert found.blank == {NO_CONTENT: (1,), NO_DIFFERENCE: (2,), CUT_OFF: (3,)}
    two = TASK.encode(replace(reader, forks=False), rows, labels=()).examples
    assert isinstance(two, GroupedExamples)
    assert two.rows.sizes[:2].sum() - found.examples.sizes[0] == two.rows.sizes[0] - len("Hello.")  # shared
    assert found.examples.sizes[1:].tolist() == [0, 0, 0]
    text = reader.tokenizer.decode(found.examples.batch(np.array([0])).inputs["input_ids"][0])
    assert text.endswith("Hello<|eot_id|>Go<|eot_id|>")


@pytest.mark.parametrize("build", TARGETS)
@pytest.mark.parametrize("most", [None, 5])
def test_one_row_says_what_two_say(build: Any, most: int | None) -> None:
    forked, rows = both_forms()
    adapted = model(build)
    adapted.spec = replace(adapted.spec, data={**adapted.spec.data, "max_answer": most})
    adapted.peft.double().eval()
    one = adapted.forward(forked.batch(np.arange(3), size=16, rows=5))
    two = adapted.forward(rows.batch(np.arange(3), size=12, rows=4))
    torch.testing.assert_close(one.losses[:3], two.losses[:3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.margins[:3], two.margins[:3], rtol=1e-6, atol=1e-6)
    assert float(one.margins[:3].abs().min()) > 1e-4
    assert one.correct[:3].tolist() == two.correct[:3].tolist()
    assert torch.isfinite(one.losses).all()
    for index in range(3):
        some = [
            alone(adapted, form.batch(np.array([index]), size=16), losses(adapted))
            for form in (forked, rows)
        ]
        for name, gradient in some[0].items():
            torch.testing.assert_close(gradient, some[1][name], rtol=1e-6, atol=1e-6)


def test_an_ending_sees_nothing_of_the_other() -> None:
    forked, _ = both_forms()
    batch = forked.batch(np.array([0]), size=12)
    branches, real = (batch.inputs[name] for name in ("branches", "attention_mask"))
    found = ForkedPass.of(branches, real, dtype=torch.float32)
    seen = found.mask[0, 0] == 0
    assert found.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 6, 0, 0, 0]
    assert found.before[0, :9].tolist() == [0, 0, 1, 2, 3, 4, 3, 6, 7]
    assert seen[5].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert seen[8].nonzero().flatten().tolist() == [0, 1, 2, 3, 6, 7, 8]


@pytest.mark.parametrize("method", [StackedGradients, HookedGradients, OneByOne])
def test_a_forks_gradient_is_its_own_and_the_unit_check_passes(method: Any) -> None:
    adapted = model(strategy={"name": "fedit"}, aggregation={"kind": "none"})
    forked, _ = both_forms()
    found = method(adapted)
    with comparable(adapted):
        check_gradients(found, forked)
    check_privacy_unit(found, adapted.probe())


def test_made_up_forks_are_as_long_as_any_and_stay_within_what_a_model_takes() -> None:
    adapted = model()
    assert adapted.sizes.most == 31
    made = adapted.probe()
    assert made.sizes.tolist() == [2, 16, 31]
    inputs = made.batch(np.arange(3)).inputs
    found = ForkedPass.of(inputs["branches"], inputs["attention_mask"], dtype=torch.float32)
    assert int(found.positions.max()) < 16


def test_kept_activations_and_references_are_those_of_a_fork() -> None:
    adapted = model(layers=3, adapter={"layers_to_transform": [2]})
    forked, _ = both_forms()
    adapted.peft.eval()
    kept = Activations(FrozenPrefix(adapted), forked)
    assert kept.work
    kept.fill(np.arange(3), Shapes.of_one_height(4, sizes=(16,)))
    batch = forked.batch(np.arange(3), size=16, rows=4)
    with torch.no_grad(), kept.replay(batch) as known:
        assert known.inputs["reference"].shape == (4, 2)
        replayed = adapted.forward(known)
        plain = adapted.forward(batch)
    torch.testing.assert_close(replayed.losses[:3], plain.losses[:3], rtol=1e-5, atol=1e-5)


def bloom() -> Any:
    """Attention by distance in the row, which a mask does not say."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    return BloomForCausalLM(
        BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.3)
    )


@pytest.mark.parametrize(
    ("build", "limit", "able"),
    [(llama, 64, True), (gpt2, 64, True), (llama, None, True), (llama, 30, False), (bloom, None, False)],
)
def test_models_are_tried(build: Any, limit: int | None, able: bool) -> None:
    assert can_fork(build(), padding=0, tokens=50, longest=31, limit=limit) is able


def test_a_model_with_a_window_narrower_than_a_row_reads_two() -> None:
    assert not can_fork(gpt_oss(), padding=0, tokens=50, longest=31, limit=64)


def test_a_model_that_fails_reads_two() -> None:
    broken = llama()
    broken.forward = lambda **_: (_ for _ in ()).throw(ValueError("no mask of four dimensions"))
    assert not can_fork(broken, padding=0, tokens=50, longest=31, limit=64)


def test_a_pair_is_no_text_whose_words_could_be_weighed() -> None:
    adapted = model()
    with pytest.raises(UserError, match="expected runs on texts, tables or series"):
        attribute(adapted, random_adapter(adapted), both_forms()[0])


def test_what_comes_after_the_last_learned_token_is_left_out() -> None:
    one = Marked(tokens=np.arange(5, dtype=np.int32), learned=np.array([False, False, True, False, False]))
    assert trimmed(one).tokens.tolist() == [0, 1, 2]


def test_batches_are_no_narrower_than_what_a_template_writes() -> None:
    job = make_job(targets=["q_proj"], task="preferences")
    base = text_base(llama(), job)
    reader = FAMILIES["SmolLM2"].reader(max_length=200)
    base = replace(base, reader=reader, limit=None)
    found = TASK.sizes(base, TASK.Section(max_length=200))
    # "<|im_start|>system⏎You are a helpful …" is 92 characters, each of them a token here.
    assert found.public[0] == 128
    assert found.public[-1] == 200
