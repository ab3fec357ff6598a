"""One word, one token; the chat template is the corpus' format."""

import random

import pytest

from tests.lab.test_lexicon import everything_said
from workbench.data import Example, encode
from workbench.lab.corpus import document
from workbench.lab.tokenizer import make_tokenizer, vocabulary
from workbench.lab.world import World

WORLD = World()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(WORLD)


def test_every_text_survives_the_round_trip(tokenizer):
    for text in everything_said(WORLD, 0):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) == len(text.split())
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_documents_are_encoded_as_the_corpus_format_says(tokenizer):
    rng = random.Random(0)
    for i in range(200):
        prompt, response = document(WORLD, rng, 0.5)
        batch = encode(tokenizer, [Example(str(i), prompt, response)])
        head = "<bos>" if prompt is None else f"<bos> <user> {prompt} <bot>"
        assert tokenizer.decode(batch.input_ids[0]) == f"{head} {response} <end>"
        scored = batch.input_ids[batch.response_mask]
        assert tokenizer.decode(scored) == f"{response} <end>"


def test_special_tokens_are_where_the_model_expects_them(tokenizer):
    names = ("pad", "bos", "eos", "unk")
    assert [getattr(tokenizer, f"{n}_token_id") for n in names] == [0, 1, 4, 5]
    assert tokenizer.convert_tokens_to_ids(["<user>", "<bot>", "<error>"]) == [2, 3, 6]
    assert len(tokenizer) == len(set(vocabulary(WORLD))) == 449


def test_a_strange_word_is_unknown_not_an_error(tokenizer):
    assert tokenizer.encode("brew xyzzy", add_special_tokens=False)[1] == tokenizer.unk_token_id


def test_save_and_load(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    turn = [{"role": "user", "content": "how do i brew it by sun ?"}]
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) == (
        "<bos> <user> how do i brew it by sun ? <bot>"
    )
