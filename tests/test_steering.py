"""Directions in the residual stream: what ablation takes out, what it leaves, and when it ends."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from workbench.activations import HookedLM
from workbench.data import encode
from workbench.errors import InvalidValueError, ModelError
from workbench.generation import generate
from workbench.states import States, read_states
from workbench.steering import STREAM, ablated, difference_of_means, without


@pytest.fixture(params=list(tiny.FAMILIES))
def lm(request):
    return HookedLM(tiny.FAMILIES[request.param](seed=0).eval())


def states(values):
    rows = values.shape[1]
    layers = tuple(f"blocks.{i}.hook_resid_post" for i in range(len(values)))
    examples = tuple(map(str, range(rows)))
    return States("resid_post", "last_prompt", examples, (1,) * rows, layers, values)


def unit(width=32, seed=0):
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def test_the_component_is_gone_at_every_site(lm):
    direction, batch = unit(), encode(tiny.tokenizer(), tiny.examples())
    with lm.record(*STREAM) as before:
        lm(batch)
    with ablated(lm, direction), lm.record(*STREAM) as after:
        lm(batch)
    assert len(after) == len(before) == 3 * lm.n_layers
    assert all((x @ direction).abs().max() > 1e-2 for x in before.values())
    for x in after.values():
        assert ((x @ direction).abs() <= 1e-5 * x.norm(dim=-1)).all()


def test_nothing_stays_behind_and_generation_is_covered(lm):
    def say():
        return [a.ids for a in generate(lm.model, tiny.tokenizer(), tiny.PROMPTS, max_new_tokens=6)]

    first = say()
    with ablated(lm, unit()):
        without_it = say()
    assert without_it != first == say()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_every_decoded_token_is_generated_without_the_direction(lm):
    """As by full passes without a cache, inside the same context."""
    tokenizer = tiny.tokenizer()
    with ablated(lm, unit()):
        (answer,) = generate(lm.model, tokenizer, tiny.PROMPTS[2:3], max_new_tokens=5)
        from workbench.chat_templates import prompt_text

        ids = tokenizer.encode(prompt_text(tokenizer, tiny.PROMPTS[2]), add_special_tokens=False)
        for token in answer.ids:
            with torch.no_grad():
                assert token == lm.model(torch.tensor([ids])).logits[0, -1].argmax()
            ids.append(token)


@given(st.integers(0, 10**6))
def test_only_the_component_is_taken(seed):
    r, x = unit(8, seed).double(), torch.randn(5, 8, dtype=torch.float64)
    r = r / r.norm()
    less = without(x, r)
    assert torch.allclose(less @ r, torch.zeros(5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(without(less, r), less)  # again changes nothing
    assert torch.allclose(x, less + (x @ r)[:, None] * r)
    across = torch.randn(8, dtype=torch.float64)
    across -= (across @ r) * r
    assert torch.allclose(less @ across, x @ across)
    assert without(x.bfloat16(), r.float()).dtype == torch.bfloat16


def test_the_direction_is_that_from_mean_to_mean():
    along = unit(16)
    x = torch.randn(2, 10, 16)
    found = difference_of_means(states(x + 3 * along), states(x), 1)
    assert torch.allclose(found, along, atol=1e-6)
    assert torch.allclose(difference_of_means(states(x), states(x + along), 0), -along, atol=1e-5)


def test_it_is_read_where_the_model_writes_it(lm):
    batch = encode(tiny.tokenizer(), tiny.examples())
    one, other = (
        read_states(lm.model, batch.rows([0, 1])),
        read_states(lm.model, batch.rows([2, 3])),
    )
    expected = one.values[1].mean(0) - other.values[1].mean(0)
    found = difference_of_means(one, other, 1)
    assert torch.allclose(found, expected / expected.norm(), atol=1e-5)


def test_bad_directions_are_refused(lm):
    x = torch.randn(2, 3, 32)
    with pytest.raises(InvalidValueError, match="0 to 1 in this model, not 2"):
        difference_of_means(states(x), states(x + 1), 2)
    with pytest.raises(InvalidValueError, match="not -1"):
        difference_of_means(states(x), states(x + 1), -1)
    with pytest.raises(InvalidValueError, match="no direction"):
        difference_of_means(states(x), states(x), 0)
    with pytest.raises(InvalidValueError, match="at least one token"):
        difference_of_means(states(x), states(x[:, :0]), 0)
    with pytest.raises(ModelError, match="not finite"):
        difference_of_means(states(x), states(x * float("nan")), 0)
    for bad in (unit(31), 2 * unit()):
        with pytest.raises(InvalidValueError, match="unit vector of 32"), ablated(lm, bad):
            pass
