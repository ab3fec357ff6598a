"""Recording a panel while training: what is kept, when, and without a trace in the weights."""

import numpy as np
import peft
import pytest
import torch

from tests import tiny
from tests.activations.models import LENGTHS, PROMPT, batch, hook_count, loss
from workbench.activations import HookedLM
from workbench.data import Batch, encode
from workbench.errors import (
    InvalidValueError,
    RecordingError,
    SiteError,
    UnknownNameError,
    WorkbenchWarning,
)
from workbench.recording import Mask, Recorder, kept_positions
from workbench.recording_budget import parse_bytes
from workbench.recordings import Recording

NAME = "blocks.1.hook_resid_post"


def panel() -> list[Batch]:
    second = batch("left", seed=1)
    named = Batch(second.input_ids, second.attention_mask, second.response_mask, ("d", "e", "f"))
    return [batch(), named]


def activations(model, x):
    with torch.no_grad(), HookedLM(model).record(NAME) as acts:
        HookedLM(model)(x)
    return acts[NAME]


EXPECTED = {
    "response:2": lambda x, n: x[PROMPT : min(PROMPT + 2, n)],
    "response:999": lambda x, n: x[PROMPT:n],
    "prompt": lambda x, n: x[:PROMPT],
    "last_prompt": lambda x, n: x[PROMPT - 1 : PROMPT],
    "response": lambda x, n: x[PROMPT:n],
    "all": lambda x, n: x,
    "mean_response": lambda x, n: x[PROMPT:n].mean(0, keepdim=True),
}


@pytest.mark.parametrize("positions", EXPECTED)
def test_each_example_gets_its_own_tokens(tmp_path, positions):
    model = tiny.llama()
    with Recorder(tmp_path, panel(), [NAME], positions=positions, dtype="fp32") as recorder:
        assert recorder(model, 0)
    recording = Recording(tmp_path)
    assert recording.examples == ("a", "b", "c", "d", "e", "f")
    assert recording.manifest.positions == positions
    for x in panel():
        acts = activations(model, x)
        for row, name in enumerate(x.examples):
            tokens = acts[row][x.attention_mask[row]]  # without padding, whichever side it is on
            expected = EXPECTED[positions](tokens, LENGTHS[row]).numpy()
            read = recording.read(NAME, step=0, example=name)
            np.testing.assert_allclose(read, expected, rtol=1e-6, atol=1e-6)


def train(model, recorder=None, steps=6):
    """SFT with dropout on; the final weights."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(0)
    for step in range(steps):
        if recorder:
            recorder(model, step)
        model.train()
        x = batch(seed=step)
        loss(model(x.input_ids, attention_mask=x.attention_mask), x).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {k: v.clone() for k, v in model.state_dict().items()}


def with_lora():
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_dropout=0.3, target_modules=["q_proj", "v_proj"])
    return peft.get_peft_model(tiny.llama(attention_dropout=0.1), config)


@pytest.mark.parametrize("make", [tiny.gpt2, with_lora])  # gpt2's default dropout is 0.1
def test_training_is_the_same_to_the_last_bit(tmp_path, make):
    plain = train(make())
    with Recorder(tmp_path, panel(), ["*"], every=2) as recorder:
        recorded = train(make(), recorder)
    assert all(torch.equal(plain[k], recorded[k]) for k in plain)
    assert Recording(tmp_path).steps == (0, 2, 4)
    careless = train(make(), lambda model, step: torch.rand(1))  # the control: it must show
    assert not all(torch.equal(plain[k], careless[k]) for k in plain)


def test_modes_and_hooks_are_as_before(tmp_path):
    model = tiny.gpt2().train()
    model.transformer.h[0].eval()
    modes = [m.training for m in model.modules()]
    with Recorder(tmp_path, panel()) as recorder:
        recorder(model, 0)
    assert [m.training for m in model.modules()] == modes
    assert hook_count(model) == 0


def test_records_without_dropout_even_in_training_mode(tmp_path):
    model = tiny.gpt2()
    expected = activations(model, batch())[:, PROMPT - 1]
    with Recorder(tmp_path, [batch()], [NAME], dtype="fp32") as recorder:
        recorder(model.train(), 0)
    np.testing.assert_array_equal(Recording(tmp_path).read(NAME, step=0), expected.numpy())


def test_steps_are_chosen_by_every_or_by_name(tmp_path):
    lm = HookedLM(tiny.llama())
    with Recorder(tmp_path / "every", panel(), every=4) as recorder:
        assert [step for step in range(10) if recorder(lm, step)] == [0, 4, 8]
    with Recorder(tmp_path / "at", panel(), at=[0, 1, 7]) as recorder:
        assert [step for step in range(10) if recorder(lm, step)] == [0, 1, 7]


def test_a_killed_run_keeps_its_steps_and_is_continued(tmp_path):
    model = tiny.llama()
    first = Recorder(tmp_path, panel(), every=1)
    first(model, 0)
    first(model, 1)
    assert Recording(tmp_path).steps == (0, 1)  # durable after every step, not only at the end
    first.abandon()
    with pytest.raises(RecordingError, match="already holds a recording"):
        Recorder(tmp_path, panel())(model, 1)
    with Recorder(tmp_path, panel(), resume=True) as again:
        assert [again(model, step) for step in (1, 2)] == [False, True]
    assert Recording(tmp_path).steps == (0, 1, 2)
    Recording(tmp_path).verify()


def test_an_error_leaves_what_was_recorded(tmp_path):
    with pytest.raises(ZeroDivisionError), Recorder(tmp_path, panel()) as recorder:
        recorder(tiny.llama(), 0)
        raise ZeroDivisionError
    with pytest.warns(WorkbenchWarning, match="6 rows of 6 examples at 1 steps are readable"):
        recording = Recording(tmp_path)
    assert recording.steps == (0,) and not recording.manifest.complete


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_half_a_step_is_never_recorded(tmp_path, error):
    """An error that is not ours in the second batch, and a caller who goes on."""
    model, passes = tiny.llama(), []

    def fails(*_):
        passes.append(1)
        if len(passes) == 2:
            raise error

    recorder = Recorder(tmp_path, panel())
    recorder(model, 0)
    hook = model.model.layers[0].register_forward_hook(fails)
    with pytest.raises(error):
        recorder(model, 1)
    hook.remove()
    for go_on in (lambda: recorder(model, 2), recorder.close):
        with pytest.raises(RecordingError, match=r"closed or interrupted.*resume=True"):
            go_on()
    with pytest.warns(WorkbenchWarning), Recorder(tmp_path, panel(), resume=True) as again:
        assert [again(model, step) for step in (0, 1, 2)] == [False, True, True]
    recording = Recording(tmp_path)
    recording.verify()
    assert all(len(recording.lengths(step)) == 6 for step in (0, 1, 2))


def test_layouts_are_shared_between_steps(tmp_path):
    with Recorder(tmp_path, panel(), positions="response") as recorder:
        for step in range(4):
            recorder(tiny.llama(), step)
    assert len(Recording(tmp_path).manifest.layouts) == 2  # one a batch of the panel


def test_bad_input_is_refused_at_the_door(tmp_path):
    with pytest.raises(InvalidValueError, match="given 6 examples with 3 ids"):
        Recorder(tmp_path, [batch(), batch()])
    with pytest.raises(InvalidValueError, match="given 0 examples"):
        Recorder(tmp_path, [])
    with pytest.raises(InvalidValueError, match="every=0"):
        Recorder(tmp_path, panel(), every=0)
    with pytest.raises(InvalidValueError, match="no sites were given"):
        Recorder(tmp_path, panel(), [])
    with pytest.raises(SiteError, match="Did you mean 'resid_post'"):
        Recorder(tmp_path, panel(), ["resid_pots"])(tiny.llama(), 0)
    assert not list(tmp_path.iterdir())


def test_examples_without_such_a_token_are_named():
    x = batch()
    none = Batch(x.input_ids, x.attention_mask, torch.zeros_like(x.response_mask), x.examples)
    with pytest.raises(InvalidValueError, match=r"'response', but these .* no such token: a, b, c"):
        kept_positions(none, "response")
    no_prompt = Batch(x.input_ids, x.attention_mask, x.attention_mask, x.examples)
    with pytest.raises(InvalidValueError, match="'last_prompt'"):
        kept_positions(no_prompt, "last_prompt")


def test_with_a_real_tokenizer(tmp_path):
    x = encode(tiny.tokenizer(), tiny.examples())
    with Recorder(tmp_path, [x], ["embed"], positions="all") as recorder:
        recorder(tiny.qwen3(), 0)
    lengths = Recording(tmp_path).lengths(0)
    assert lengths == dict(zip(x.examples, x.attention_mask.sum(1).tolist(), strict=True))


def odd(x):
    return (torch.arange(x.input_ids.shape[1]) % 2 == 1).expand(x.input_ids.shape)


def test_positions_of_ones_own_are_recorded_by_name(tmp_path):
    with Recorder(tmp_path, panel(), [NAME], positions=Mask("odd", odd), dtype="fp32") as recorder:
        recorder(tiny.llama(), 0)
    recording = Recording(tmp_path)
    assert recording.manifest.positions == "mask:odd"
    for x in panel():
        acts = activations(tiny.llama(), x)
        for row, name in enumerate(x.examples):
            keep = odd(x)[row] & x.attention_mask[row]  # padding never counts
            read = recording.read(NAME, step=0, example=name)
            np.testing.assert_allclose(read, acts[row][keep].numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(RecordingError, match="its positions is 'mask:odd', not 'all'"):
        Recorder(tmp_path, panel(), [NAME], positions="all", dtype="fp32", resume=True)(
            tiny.llama(), 1
        )


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        ("response:", UnknownNameError, "no choice of positions called 'response:'"),
        ("response:-1", UnknownNameError, "response:5"),
        ("mask:odd", UnknownNameError, "no choice of positions"),
        (Mask("m", lambda x: x.attention_mask.long()), InvalidValueError, "'m' gave torch.int64"),
        (Mask("m", lambda x: x.attention_mask[:1]), InvalidValueError, "one a token"),
        (Mask("m", lambda x: None), InvalidValueError, "'m' gave <class 'NoneType'>"),
        (Mask("m", lambda x: ~x.attention_mask), InvalidValueError, "'mask:m', but these .* a, b"),
    ],
)
def test_positions_that_are_none(positions, error, message):
    with pytest.raises(error, match=message):
        kept_positions(batch(), positions)


# --- bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["last_prompt", "response", "mean_response"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_estimate_is_exact(tmp_path, positions, dtype):
    with Recorder(tmp_path, panel(), ["*"], positions=positions, dtype=dtype) as recorder:
        estimate = recorder.estimate(tiny.gpt2(), steps=3)
        for step in range(3):
            recorder(tiny.gpt2(), step)
    files = list(tmp_path.glob("*.safetensors"))
    assert estimate.file_bytes == sum(path.stat().st_size for path in files)
    assert len(estimate.widths) == len(files) and estimate.examples == 6


def test_a_recording_that_would_be_too_large_is_not_begun(tmp_path):
    size = Recorder(tmp_path, panel(), positions="all").estimate(tiny.llama()).rows_bytes
    for steps, allowed in (([0, 5], 2 * size - 1), (range(3), 3 * size - 1)):
        recorder = Recorder(tmp_path, panel(), positions="all", at=steps, max_bytes=allowed)
        with pytest.raises(InvalidValueError, match=r"record fewer sites, other positions"):
            recorder(tiny.llama(), 0)
    assert not list(tmp_path.iterdir())


def test_a_recording_never_grows_beyond_what_is_allowed(tmp_path):
    """Where nobody can know how many steps there will be, it ends with the last that fits."""
    size = Recorder(tmp_path, panel(), positions="all").estimate(tiny.llama()).rows_bytes
    recorder = Recorder(tmp_path, panel(), positions="all", max_bytes=3 * size + 1)
    assert all(recorder(tiny.llama(), step) for step in range(3))
    with pytest.raises(RecordingError, match=rf"would pass the limit of {3 * size + 1}"):
        recorder(tiny.llama(), 3)
    with pytest.warns(WorkbenchWarning, match="stopped before it was done"):
        recording = Recording(tmp_path)
    assert recording.steps == (0, 1, 2)
    recording.verify()


@pytest.mark.parametrize(
    ("text", "size"), [("12", 12), ("1.5 kB", 1500), ("2MiB", 2 << 20), ("3gb", 3 * 10**9)]
)
def test_bytes_as_people_write_them(text, size):
    assert parse_bytes(text) == size


def test_what_is_no_number_of_bytes():
    for text in ("", "many", "-3", "1 parsec"):
        with pytest.raises(InvalidValueError, match="no number of bytes"):
            parse_bytes(text)


@pytest.mark.parametrize(("dtype", "hint"), [("bf16", "in fp32.$"), ("fp16", "try bf16")])
def test_what_is_not_finite_is_refused_by_site_and_example(tmp_path, dtype, hint):
    model = tiny.llama()
    x = batch()
    with torch.no_grad():
        token = int(x.input_ids[1, PROMPT - 1])
        model.get_input_embeddings().weight[token] = torch.inf
        rest = x.input_ids.clone()
    hit = [e for e, row in zip(x.examples, rest[:, :PROMPT], strict=True) if (row == token).any()]
    recorder = Recorder(tmp_path, [x], [NAME], dtype=dtype)
    with pytest.raises(
        InvalidValueError, match=rf"{NAME} is not finite in example '{hit[0]}'.*{hint}"
    ):
        recorder(model, 0)
