"""Tiny tokenizers with the chat templates that families of models were published with."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tasks.data.tokenization import Reader

_UNKNOWN = "<unk>"
_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A template with its special tokens; ``spaced`` ones mark a space, as SentencePiece does."""

    template: str
    special: tuple[str, ...]
    bos: str | None = None
    eos: str
    spaced: bool = False

    def tokenizer(self, **options: Any) -> Any:
        """Every character is a token, and so is each special one. It would begin any text with ``bos``."""
        characters = sorted({*string.printable, "Ġ", "Ċ", "▁"})
        names = [*self.special, *([self.bos] if self.bos else []), self.eos]
        vocabulary = {token: place for place, token in enumerate([_UNKNOWN, *characters])}
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=_UNKNOWN))
        if self.spaced:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
            backend.decoder = decoders.Metaspace(prepend_scheme="first")
        else:
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(name, special=True) for name in dict.fromkeys(names)])
        if self.bos:
            number = backend.token_to_id(self.bos)
            backend.post_processor = TemplateProcessing(
                single=f"{self.bos} $A", special_tokens=[(self.bos, number)]
            )
        found = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token=self.bos, eos_token=self.eos, **options
        )
        found.chat_template = self.template
        return found

    def reader(self, *, max_length: int = 500, **options: Any) -> Reader:
        tokenizer = self.tokenizer(**options)
        return Reader(tokenizer=tokenizer, max_length=max_length, least=2, tokens=len(tokenizer), padding=0)


FAMILIES = {
    "SmolLM2": Family(
        template=(
            "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
            "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
            "'<|im_end|>' + '\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        ),
        special=("<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
    ),
    "Llama 3": Family(
        template=(
            "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
            "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
            "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
            "{% endif %}"
        ),
        special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
    ),
    "Mistral": Family(
        template=(
            "{{ bos_token }}{% for message in messages %}"
            + _ALTERNATE
            + "{% if message['role'] == 'user' %}"
            "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
            "{{ ' ' + message['content'] + eos_token}}{% else %}"
            "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
        ),
        special=(),
        bos="<s>",
        eos="</s>",
        spaced=True,
    ),
    "Zephyr": Family(
        template=(
            "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
            "message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
            "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
            "{% elif message['role'] == 'assistant' %}\n"
            "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
            "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
        ),
        special=(),
        bos="<s>",
        eos="</s>",
        spaced=True,
    ),
    "Gemma": Family(
        template=(
            "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
            "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
            + _ALTERNATE
            + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
            "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
            "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
        ),
        special=("<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<end_of_turn>",
        spaced=True,
    ),
    # An end of text after all that is not to be gone on with: no beginning of the whole conversation.
    "Phi-3": Family(
        template=(
            "{% for message in messages %}{% if message['role'] == 'system' %}"
            "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
            "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
            "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
        ),
        special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        eos="<|endoftext|>",
        spaced=True,
    ),
    # What is thought is asked for, and left out of all answers.
    "DeepSeek-R1": Family(
        template=(
            "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
            "{{ message['content'] }}{% elif message['role'] == 'user' %}"
            "{{ '<｜User｜>' + message['content'] }}{% elif message['role'] == 'assistant' %}"
            "{% set content = message['content'] %}{% if '</think>' in content %}"
            "{% set content = content.split('</think>')[-1] %}{% endif %}"
            "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
        ),
        special=("<｜User｜>", "<｜Assistant｜>"),
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
    ),
    # The last answer is thought about first, and those before it are not, once there is another.
    "Qwen3": Family(
        template=(
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
            "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}"
            "{% endif %}"
            "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        ),
        special=("<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
    ),
}
