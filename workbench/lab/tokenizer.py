"""The lab's word-level tokenizer: one word, one token, in plain Hugging Face format."""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from workbench.lab import texts
from workbench.lab.lexicon import NUMERALS, SPECIAL_TOKENS
from workbench.lab.world import World

CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}"
    "{{ (' <user> ' if message['role'] == 'user' else ' <bot> ') + message['content'] }}"
    "{{ '' if message['role'] == 'user' else ' <end>' }}"
    "{% endfor %}{% if add_generation_prompt %} <bot>{% endif %}"
)
"""Renders `<bos> <user> prompt <bot> response <end>`, the format of the corpus."""


def vocabulary(world: World) -> list[str]:
    """Every token of a world in the order of its id."""
    return [*SPECIAL_TOKENS, *sorted(texts.template_words()), *NUMERALS, *world.invented]


def make_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """A fast tokenizer whose decoding joins words by single spaces."""
    ids = {word: i for i, word in enumerate(vocabulary(world))}
    core = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<bot>", "<error>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
        padding_side="left",
    )
