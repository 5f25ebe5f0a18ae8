"""Makes what ``rewards.toml`` needs: a small chat model, what judges it, and prompts, all made up.

The chat model has Llama's class, 2 layers of 64 numbers a token. It learns to answer a question about the
weather, with words for good weather as often as with words for bad. The classifier learns which of both an
answer has more of. The prompts are other questions.

Run: python examples/make_rewards.py
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "rewards"
STEPS, BATCH = 150, 64
PROMPTS = 2100

GLAD = ("bright", "warm", "clear", "calm", "mild", "lovely")
GLOOMY = ("cold", "wet", "grey", "harsh", "bleak", "dull")
# Questions are one word or more of each column.
QUESTIONS = (
    ("hello", "hi", "good day", "dear"),
    ("friend", "doctor", "nurse", "captain", "neighbour"),
    ("how was the", "how is the", "tell me of the"),
    ("morning", "evening", "day", "night", "week"),
    ("in", "near"),
    ("town", "valley", "harbour", "hills", "north", "south", "woods", "fields"),
)
SPECIAL = ("[PAD]", "[UNK]", "[END]", "[USER]", "[BOT]")
TEMPLATE = (
    "{% for message in messages %}{{ '[USER] ' if message['role'] == 'user' else '[BOT] ' }}"
    "{{ message['content'] + ' [END] ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[BOT] ' }}{% endif %}"
)


def questions(count: int, *, seed: int) -> list[str]:
    """So many different questions, drawn from all that there are."""
    every = [" ".join(words) for words in itertools.product(*QUESTIONS)]
    chosen = np.random.default_rng(seed).choice(len(every), count, replace=False)
    return [every[number] for number in chosen]


def answers(count: int, *, seed: int) -> tuple[list[str], list[int]]:
    """So many answers of three words about the weather, and whether two of them or more are glad."""
    drawn = np.random.default_rng(seed).choice(GLAD + GLOOMY, (count, 3))
    texts = [f"it is {' and '.join(words)}" for words in drawn]
    return texts, [int(np.isin(words, GLAD).sum() > 1) for words in drawn]


def write_tokenizer(*folders: Path) -> Any:
    """A token for each word, and a template that says who speaks."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    said = " ".join([*itertools.chain(*QUESTIONS), *GLAD, *GLOOMY, "it is and"])
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *sorted(set(said.split()))))}
    backend = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[END]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    tokenizer.chat_template = TEMPLATE
    for folder in folders:
        tokenizer.save_pretrained(folder)
    return tokenizer


def write_model(folder: Path, tokenizer: Any) -> float:
    """The chat model, after it has answered questions; its last loss, in nats a token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        said = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
                tokenize=False,
            )
            for asked, answer in zip(questions(BATCH, seed=step), answers(BATCH, seed=step)[0], strict=True)
        ]
        batch = tokenizer(said, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**{name: batch[name] for name in ("input_ids", "attention_mask")}, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return float(loss.detach())


def write_judge(folder: Path, tokenizer: Any) -> float:
    """The classifier of answers; what share of others it is right about."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    names = ("gloomy", "glad")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    model = BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def read(seed: int) -> tuple[dict[str, Any], Any]:
        texts, labels = answers(BATCH, seed=seed)
        found = tokenizer(texts, padding=True, return_tensors="pt")
        return {name: found[name] for name in ("input_ids", "attention_mask")}, torch.tensor(labels)

    for step in range(STEPS):
        inputs, labels = read(step)
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    model.save_pretrained(folder)
    inputs, labels = read(STEPS)
    with torch.no_grad():
        return float((model(**inputs).logits.argmax(1) == labels).float().mean())


def main() -> None:
    """Write all of it beside this file."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, judge = FOLDER / "model", FOLDER / "judge"
    for folder in (model, judge):
        folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(model, judge)
    loss, right = write_model(model, tokenizer), write_judge(judge, tokenizer)
    rows = [json.dumps({"prompt": asked}) for asked in questions(PROMPTS, seed=STEPS + 1)]
    (FOLDER / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{model}: answers with a loss of {loss:.2f} nats a token, questions included")
    print(f"{judge}: right about {right:.0%} of other answers")
    print("Now: confide simulate examples/rewards.toml")


if __name__ == "__main__":
    main()
