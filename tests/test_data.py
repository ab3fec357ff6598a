import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from workbench.chat_templates import prompt_text, response_text, template_of
from workbench.data import IGNORED, Example, Stream, encode, generator, require, tokenizer_digest
from workbench.errors import InvalidValueError, MissingStreamError, ModelError
from workbench.losses import cross_entropy, token_nll

TOKENIZER = tiny.tokenizer()
texts = st.text("abc des.?\n", min_size=1, max_size=20)
pairs = st.lists(st.tuples(st.none() | texts, texts), min_size=1, max_size=5)
examples_ = pairs.map(lambda rows: [Example(str(i), p, r) for i, (p, r) in enumerate(rows)])
sides = st.sampled_from(["left", "right"])


@given(examples_, sides)
def test_the_response_mask_marks_response_and_end_and_nothing_else(examples, side):
    batch = encode(TOKENIZER, examples, side=side)
    for i, x in enumerate(examples):
        row, real, scored = batch.input_ids[i], batch.attention_mask[i], batch.response_mask[i]
        head = "<bos>" if x.prompt is None else prompt_text(TOKENIZER, x.prompt)
        assert TOKENIZER.decode(row[real & ~scored]) == head
        assert TOKENIZER.decode(row[scored]) == x.response + "<eos>"
        assert (row[~real] == TOKENIZER.pad_token_id).all() and not (scored & ~real).any()
        assert scored.nonzero()[-1] == real.nonzero()[-1]


@given(examples_, sides)
def test_padding_is_on_one_side_only(examples, side):
    mask = encode(TOKENIZER, examples, side=side).attention_mask
    assert mask.any(0).all()  # no column is padding throughout
    ordered = mask.int().sort(-1, descending=side == "right").values
    assert torch.equal(mask.int(), ordered)


@given(examples_, sides)
def test_positions_count_from_the_first_real_token(examples, side):
    batch = encode(TOKENIZER, examples, side=side)
    for positions, real in zip(batch.position_ids, batch.attention_mask, strict=True):
        assert positions[real].tolist() == list(range(int(real.sum())))
        assert (positions >= 0).all()


@given(examples_, sides)
def test_targets_are_the_next_tokens_where_they_are_scored(examples, side):
    batch = encode(TOKENIZER, examples, side=side)
    for i, t in torch.cartesian_prod(*map(torch.arange, batch.targets.shape)).tolist():
        scored = bool(batch.response_mask[i, t + 1])
        assert batch.targets[i, t] == (batch.input_ids[i, t + 1] if scored else IGNORED)
        assert batch.scored[i, t] == scored
    assert batch.tokens == int(batch.attention_mask.sum())


def logits(model, batch):
    with torch.no_grad():
        return model(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
        ).logits


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_neither_side_nor_company_changes_a_rows_loss(family):
    model, examples = tiny.FAMILIES[family](), tiny.examples(4)

    def losses(batch):
        return token_nll(logits(model, batch), batch).sum(1) / batch.scored.sum(1)

    alone = torch.cat([losses(encode(TOKENIZER, [x])) for x in examples])
    for side in ("left", "right"):
        together = losses(encode(TOKENIZER, examples, side=side))
        torch.testing.assert_close(together, alone, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_micro_batches_add_up_to_the_batch(size, side):
    model, batch = tiny.llama(), encode(TOKENIZER, tiny.examples(6), side=side)
    parts = batch.split(size)
    assert [x for part in parts for x in part.examples] == list(batch.examples)
    assert all(part.attention_mask.any(0).all() for part in parts)  # trimmed
    weights = torch.tensor([int(part.scored.sum()) for part in parts])
    losses = torch.stack([cross_entropy(logits(model, part), part) for part in parts])
    whole = cross_entropy(logits(model, batch), batch)
    torch.testing.assert_close((losses * weights).sum() / weights.sum(), whole)


def test_moving_a_batch_keeps_everything():
    batch = encode(TOKENIZER, tiny.examples(2))
    moved = batch.to("meta")
    assert moved.input_ids.device.type == moved.response_mask.device.type == "meta"
    assert moved.examples == batch.examples and len(moved) == 2
    assert torch.equal(batch.to("cpu").input_ids, batch.input_ids)


@given(examples_, st.integers(6, 40))
def test_max_length_cuts_responses_and_nothing_else(examples, max_length):
    whole = encode(TOKENIZER, examples)
    heads = (whole.attention_mask & ~whole.response_mask).sum(-1)
    if (heads >= max_length).any():
        with pytest.raises(InvalidValueError, match="no response token fits"):
            encode(TOKENIZER, examples, max_length=max_length)
        return
    cut = encode(TOKENIZER, examples, max_length=max_length)
    assert torch.equal(cut.input_ids, whole.input_ids[:, :max_length])
    assert torch.equal(cut.response_mask, whole.response_mask[:, :max_length])


def test_templates_that_rewrite_the_assistants_turn_still_end_the_response():
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | upper }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>think: {% endif %}"
    )
    tokenizer = tiny.tokenizer(template)
    assert response_text(tokenizer, "hi", "yes") == "yes<eos>"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: encode(t, []), InvalidValueError, "no examples"),
        (lambda t: encode(t, tiny.examples(1), side="rigth"), InvalidValueError, "not 'rigth'"),
        (
            lambda t: encode(t, [Example("long", "a b c d", "x")], max_length=3),
            InvalidValueError,
            "example 'long': its prompt has .* max_length=3",
        ),
        (lambda t: encode(_without(t, "chat_template"), tiny.examples(1)), ModelError, "template"),
        (
            lambda t: encode(_without(t, "pad_token", "eos_token"), [Example("e", None, "x")]),
            ModelError,
            "neither a padding nor an end token",
        ),
        (lambda t: Stream("align", [], t, 2), MissingStreamError, "'align' holds no examples"),
        (lambda t: Stream("align", tiny.examples(1), t, 0), InvalidValueError, "not 0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(tiny.tokenizer())


def _without(tokenizer, *names):
    for name in names:
        setattr(tokenizer, name, None)
    return tokenizer


def stream(n, batch_size, seed=0, name="harmful"):
    examples = [Example(str(i), None, "x") for i in range(n)]
    return Stream(name, examples, TOKENIZER, batch_size, seed)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 9), st.integers(0, 40))
def test_any_step_can_be_drawn_first(n, batch_size, seed, step):
    walked = iter(stream(n, batch_size, seed))
    for _ in range(step):
        next(walked)
    jumped = stream(n, batch_size, seed).batch(step)
    assert jumped.examples == next(walked).examples
    assert len(jumped) == batch_size


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 9))
def test_every_epoch_visits_every_example_once(n, batch_size, seed):
    drawn = [x for k in range(n) for x in stream(n, batch_size, seed).batch(k).examples]
    epochs = [drawn[i : i + n] for i in range(0, n * batch_size, n)]
    assert all(sorted(epoch, key=int) == [str(i) for i in range(n)] for epoch in epochs)


def test_orders_differ_by_epoch_seed_and_stream():
    n = 30
    orders = [stream(n, n, s, name).batch(k).examples
              for s in (0, 1) for name in ("harmful", "benign") for k in (0, 1)]  # fmt: skip
    assert len(set(orders)) == 8


def test_draws_do_not_depend_on_the_hash_seed():
    code = (
        "from workbench.data import generator, tokenizer_digest; from tests import tiny;"
        "print(generator('a', 1, 2.5, None).random(), tokenizer_digest(tiny.tokenizer()))"
    )
    said = subprocess.check_output(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "1"}, text=True
    )
    assert said.split() == [
        str(generator("a", 1, 2.5, None).random()),
        tokenizer_digest(TOKENIZER),
    ]


def test_generators_of_different_keys_differ():
    keys = [("a", 1), ("a", 2), ("a1",), ("b", 1), ("a", "1")]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_the_tokenizers_digest_moves_with_the_template():
    assert tokenizer_digest(tiny.tokenizer()) == tokenizer_digest(TOKENIZER)
    assert tokenizer_digest(tiny.tokenizer("{{ messages }}")) != tokenizer_digest(TOKENIZER)


def test_of_several_templates_the_one_that_prompts_are_put_in_is_named():
    made = tiny.tokenizer()
    own = template_of(made)
    assert own == made.chat_template
    made.chat_template = {"default": own, "tool_use": "{{ tools }}"}
    assert template_of(made) == own
    assert prompt_text(made, "x") == prompt_text(tiny.tokenizer(), "x")
    for several in ({"tool_use": "{{ tools }}"}, None):
        made.chat_template = several
        with pytest.raises(ModelError, match="no chat template to use"):
            template_of(made)


def test_methods_get_the_streams_they_declare_and_no_others():
    streams = {name: stream(2, 1, name=name) for name in ("align", "benign", "ref")}
    assert list(require(streams, ["ref", "align"], "vaccine")) == ["ref", "align"]


def test_a_missing_stream_is_named_with_what_it_holds():
    with pytest.raises(
        MissingStreamError,
        match=r"repnoise draws from align, harmful.*harmful \(harmful prompt, compliance\).*"
        "Given: align",
    ):
        require({"align": stream(2, 1)}, ["align", "harmful"], "repnoise")


@pytest.mark.parametrize(
    "template",
    [
        "{% for turn in messages %}",
        "{{ raise_exception('no such turn') }}",
        "{{ messages[7].role }}",
        "{{ messages + 1 }}",
        "{{ 1 // 0 }}",
        "{{ 'x' % 3 }}",
        "{{ '{missing}'.format(**messages[0]) }}",
        "{{ 1 | dictsort }}",
        "{{ 'x'.encode('no such') }}",
    ],
)
def test_a_template_that_cannot_render_is_named_and_not_a_traceback(template):
    tokenizer = tiny.tokenizer(template)
    with pytest.raises(ModelError, match="chat template cannot render a turn of user: ") as error:
        prompt_text(tokenizer, "hello")
    assert "\n" not in str(error.value)
