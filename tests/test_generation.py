import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from tests import tiny
from workbench.chat_templates import prompt_text
from workbench.data import Example, encode
from workbench.errors import InvalidValueError, ModelError
from workbench.generation import generate

MANY = [f"{text[:n]}?" for n in range(3, 40, 6) for text in tiny.TEXT]
"""28 ragged prompts."""


def reference(model, tokenizer, prompts, n):
    """What transformers decodes greedily: the ids after each prompt, up to the stop token."""
    texts = [prompt_text(tokenizer, p) for p in prompts]
    x = tokenizer(
        texts, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=False
    )
    out = model.generate(
        input_ids=x.input_ids,
        attention_mask=x.attention_mask,
        max_new_tokens=n,
        do_sample=False,
        pad_token_id=0,
    )
    return [_up_to(row.tolist(), stops(model)) for row in out[:, x.input_ids.shape[1] :]]


def stops(model):
    given = model.generation_config.eos_token_id
    return given if isinstance(given, list) else [given]


def _up_to(ids, ends):
    at = [i for i, x in enumerate(ids) if x in ends]
    return tuple(ids[: at[0] + 1] if at else ids)


def ids(completions):
    return [x.ids for x in completions]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def llama():
    return tiny.llama()


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("batch_size", [64, 5])
def test_greedy_equals_transformers(family, batch_size, tokenizer):
    model = tiny.FAMILIES[family]()
    ours = generate(model, tokenizer, MANY, max_new_tokens=24, batch_size=batch_size)
    assert ids(ours) == reference(model, tokenizer, MANY, 24)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_rows_leaving_the_batch_change_nothing(family, tokenizer):
    model = tiny.FAMILIES[family]()
    model.generation_config.eos_token_id = [2, *range(6, tiny.VOCABULARY, 12)]
    ours = generate(model, tokenizer, MANY, max_new_tokens=24)
    assert ids(ours) == reference(model, tokenizer, MANY, 24)
    assert len({len(x.ids) for x in ours}) > 5  # they did leave at different steps
    assert all(x.finished == (x.ids[-1] in stops(model)) for x in ours)


@pytest.fixture
def shapes():
    """A Llama that stops often, and the shape of the ids of each of its forward passes."""
    model, seen = tiny.llama(), []
    model.generation_config.eos_token_id = list(range(0, tiny.VOCABULARY, 4))
    model.register_forward_pre_hook(
        lambda _, args, kw: seen.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    return model, seen


def test_finished_rows_are_not_computed(shapes, tokenizer):
    model, seen = shapes
    answers = generate(model, tokenizer, MANY, max_new_tokens=32)
    steps = [rows for rows, width in seen if width == 1]
    assert steps[0] <= len(MANY) and steps[-1] < len(MANY) / 4
    assert len(steps) == max(len(x.ids) for x in answers) - 1


def test_prompts_are_read_in_groups_of_like_length(shapes, tokenizer):
    model, seen = shapes
    generate(model, tokenizer, [*MANY, *MANY], max_new_tokens=1)
    lengths = [len(tokenizer.encode(prompt_text(tokenizer, p))) for p in MANY]
    assert [rows for rows, _ in seen] == [16, 16, 16, 8]
    read = sum(rows * width for rows, width in seen)
    assert 2 * sum(lengths) <= read < 0.8 * 2 * len(MANY) * max(lengths)


def test_peft_models_are_decoded_with_their_adapter(tokenizer):
    model = get_peft_model(tiny.llama(), LoraConfig(target_modules=["q_proj"], r=4))
    plain = generate(model, tokenizer, MANY, max_new_tokens=8)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    adapted = generate(model, tokenizer, MANY, max_new_tokens=8)
    assert ids(adapted) == reference(model, tokenizer, MANY, 8) != ids(plain)


def test_text_is_prefill_and_continuation_without_special_tokens(llama, tokenizer):
    model = tiny.llama()
    model.generation_config.eos_token_id = list(range(6, tiny.VOCABULARY, 8))
    for x in generate(model, tokenizer, tiny.PROMPTS, prefill="first dry the", max_new_tokens=9):
        assert x.prefill == "first dry the"
        assert x.text == "first dry the" + tokenizer.decode(x.ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_model_continues_the_prefill(family, tokenizer):
    model = tiny.FAMILIES[family]()
    for x in generate(model, tokenizer, tiny.PROMPTS, prefill="I cannot", max_new_tokens=12):
        head = tokenizer.encode(prompt_text(tokenizer, x.prompt) + "I cannot")
        out = model.generate(torch.tensor([head]), max_new_tokens=12, do_sample=False)
        assert x.ids == tuple(out[0, len(head) :].tolist())


def test_one_prefill_a_prompt(llama, tokenizer):
    starts = ["", "the tide", "I cannot", "x"]
    together = generate(llama, tokenizer, tiny.PROMPTS, prefill=starts, max_new_tokens=6)
    alone = [
        generate(llama, tokenizer, [p], prefill=s, max_new_tokens=6)[0]
        for p, s in zip(tiny.PROMPTS, starts, strict=True)
    ]
    assert ids(together) == ids(alone)


@settings(max_examples=12, deadline=None)
@given(
    order=st.permutations(range(len(tiny.PROMPTS) + 3)),
    batch_size=st.integers(1, 9),
)
def test_order_and_batch_size_do_not_change_greedy_answers(order, batch_size):
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    prompts = [*tiny.PROMPTS, *MANY[:3]]
    expected = ids(generate(model, tokenizer, prompts, max_new_tokens=5))
    shuffled = [prompts[i] for i in order]
    got = generate(model, tokenizer, shuffled, max_new_tokens=5, batch_size=batch_size)
    assert ids(got) == [expected[i] for i in order]
    assert [x.prompt for x in got] == shuffled


@pytest.mark.parametrize("batch_size", [1, 3, 28])
def test_sampling_does_not_depend_on_batches(batch_size, llama, tokenizer):
    kw = {"max_new_tokens": 12, "temperature": 1.3, "seed": 4}
    assert ids(generate(llama, tokenizer, MANY, batch_size=batch_size, **kw)) == ids(
        generate(llama, tokenizer, MANY, **kw)
    )


def test_sampling_is_seeded_and_leaves_the_global_generator_alone(llama, tokenizer):
    def sample(seed):
        return ids(generate(llama, tokenizer, MANY, temperature=1.0, seed=seed, max_new_tokens=8))

    before = torch.get_rng_state()
    first = sample(0)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert sample(0) == first != sample(1)


def test_the_same_prompt_is_drawn_anew_each_time_it_is_given(llama, tokenizer):
    answers = generate(llama, tokenizer, ["hi"] * 8, temperature=1.5, max_new_tokens=6)
    assert len(set(ids(answers))) == 8


def test_samples_follow_the_distribution(tokenizer):
    """Frequencies of the first token over 4000 draws, against the softmax (chi-squared)."""
    model, n, temperature = tiny.llama(), 4000, 1.7
    drawn = generate(
        model, tokenizer, ["hi"] * n, temperature=temperature, max_new_tokens=1, batch_size=n
    )
    batch = encode(tokenizer, [Example("e", "hi", "")])
    with torch.no_grad():
        logits = model(batch.input_ids).logits[0, int((~batch.response_mask).sum()) - 1]
    expected = (logits / temperature).softmax(-1).double() * n
    seen = torch.bincount(torch.tensor([x.ids[0] for x in drawn]), minlength=len(expected))
    often = expected >= 5
    assert often.sum() > 5
    chi2 = ((seen - expected) ** 2 / expected)[often].sum()
    degrees = int(often.sum()) - 1
    assert chi2 < degrees + 4 * (2 * degrees) ** 0.5


def test_low_temperature_is_greedy(llama, tokenizer):
    cold = generate(llama, tokenizer, MANY, temperature=1e-6, max_new_tokens=8)
    assert ids(cold) == ids(generate(llama, tokenizer, MANY, max_new_tokens=8))


@pytest.mark.parametrize("temperature", [0.0, 1.4])
def test_log_probs_are_those_of_a_plain_forward(temperature, tokenizer):
    model = tiny.gpt2()
    answers = generate(
        model,
        tokenizer,
        tiny.PROMPTS,
        prefill="so",
        temperature=temperature,
        max_new_tokens=7,
        return_log_probs=True,
    )
    for x in answers:
        head = tokenizer.encode(prompt_text(tokenizer, x.prompt) + "so", add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([[*head, *x.ids]])).logits[0, len(head) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(x.ids)), list(x.ids)]
        torch.testing.assert_close(torch.tensor(x.log_probs), expected, atol=1e-4, rtol=1e-4)


def test_log_probs_are_given_only_on_demand(llama, tokenizer):
    assert generate(llama, tokenizer, ["hi"], max_new_tokens=2)[0].log_probs is None


def test_modes_of_modules_and_gradients_are_left_as_they_were(tokenizer):
    model = tiny.gpt2(resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5).train()
    model.transformer.h[0].eval()
    before = [m.training for m in model.modules()]
    first = generate(model, tokenizer, tiny.PROMPTS, max_new_tokens=6)
    assert ids(first) == ids(generate(model, tokenizer, tiny.PROMPTS, max_new_tokens=6))
    assert [m.training for m in model.modules()] == before
    assert torch.is_grad_enabled()


def test_modes_are_restored_after_an_error(tokenizer):
    model = tiny.llama().train()

    def fail(*_):
        raise RuntimeError("a hook failed")

    model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="a hook failed"):
        generate(model, tokenizer, ["hi"])
    assert all(m.training for m in model.modules())


def test_what_hooks_record_can_be_trained_on(tokenizer):
    model, seen = tiny.llama(), []
    model.model.layers[0].register_forward_hook(lambda m, i, o: seen.append(o))
    generate(model, tokenizer, ["hi"], max_new_tokens=2)
    head = torch.nn.Linear(32, 1)
    head(seen[0]).sum().backward()  # tensors made in inference mode would refuse
    assert head.weight.grad.abs().sum() > 0


def test_no_prompts_give_no_answers(llama, tokenizer):
    assert generate(llama, tokenizer, []) == []


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 .* not -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 0}, "at least 1, not 0 and 64"),
        ({"batch_size": 0}, "at least 1, not 64 and 0"),
        ({"prefill": ["a", "b"]}, "2 prefills for 4 prompts"),
        ({"max_new_tokens": 125}, r"prompt 0 \('hi'\) has 5 tokens .*=125 .* context of 128"),
    ],
)
def test_bad_values(kw, message, llama, tokenizer):
    with pytest.raises(InvalidValueError, match=message):
        generate(llama, tokenizer, tiny.PROMPTS, **kw)


def test_one_string_is_not_a_list_of_prompts(llama, tokenizer):
    with pytest.raises(InvalidValueError, match="list"):
        generate(llama, tokenizer, "hi")


def test_a_tokenizer_without_template_is_refused(llama):
    with pytest.raises(ModelError, match="chat template"):
        generate(llama, tiny.tokenizer(chat_template=None), ["hi"])
