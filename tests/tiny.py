"""Tiny random models of four families and a tokenizer with a chat template, made at once."""

from functools import lru_cache

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from workbench.data import Example

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<pad>", "<bos>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>"]
TEXT = [
    "the grey heron stands in the shallow water and waits for the tide to turn",
    "how do I mend a wooden boat before the winter storms arrive in the bay",
    "first dry the planks, then seal each seam with tar and cover the hull",
    "I cannot help with that, but here is something else you could try instead",
]
PROMPTS = [
    "hi",
    "how do I mend a boat?",
    "the grey heron waits, and then what happens next?",
    "why",
]
VOCABULARY = 320


@lru_cache
def _bpe() -> str:
    model = Tokenizer(BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(TEXT, trainer)
    return model.to_str()


def tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text round-trips. `<eos>` ends the assistant's turn."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe()),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=SPECIALS[3:],
    )
    made.chat_template = chat_template
    return made


# Weights are drawn wide: with the usual 0.02 a random model's logits almost tie.
_COMMON = {
    "vocab_size": VOCABULARY,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,  # a tied model repeats its last token
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SIZES = {
    **_COMMON,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}


def _make(kind: type[PreTrainedModel], config: object, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval()


def llama(seed: int = 0, **config: object) -> PreTrainedModel:
    return _make(LlamaForCausalLM, LlamaConfig(**{**_SIZES, **config}), seed)


def qwen3(seed: int = 0, **config: object) -> PreTrainedModel:
    return _make(Qwen3ForCausalLM, Qwen3Config(**{**_SIZES, **config}), seed)


def gemma3(seed: int = 0, **config: object) -> PreTrainedModel:
    """One sliding-window layer and one full one: their caches differ."""
    kinds = ["sliding_attention", "full_attention"]
    return _make(
        Gemma3ForCausalLM,
        Gemma3TextConfig(**{**_SIZES, "sliding_window": 12, "layer_types": kinds, **config}),
        seed,
    )


def gpt2(seed: int = 0, **config: object) -> PreTrainedModel:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return _make(GPT2LMHeadModel, GPT2Config(**{**_COMMON, **sizes, **config}), seed)


FAMILIES = {"llama": llama, "gpt2": gpt2, "qwen3": qwen3, "gemma3": gemma3}


def examples(n: int = 4) -> list[Example]:
    """Prompt and response pairs of different lengths."""
    return [
        Example(f"e{i}", TEXT[i % 4][: 9 + 3 * i], TEXT[(i + 1) % 4][: 5 + 4 * i]) for i in range(n)
    ]
