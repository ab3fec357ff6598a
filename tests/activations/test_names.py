import pytest

from tests import tiny
from workbench.activations import HookedLM
from workbench.errors import ModelError, SiteError


@pytest.fixture(scope="module")
def lm():
    return HookedLM(tiny.llama())


def test_sites_come_in_the_order_of_a_forward_pass(lm):
    block = ["resid_pre", "attn_module_out", "attn_out", "resid_mid", "mlp_module_out", "mlp_out"]
    expected = ["hook_embed"]
    for i in range(2):
        expected += [f"blocks.{i}.hook_{name}" for name in [*block, "resid_post"]]
    assert lm.sites == (*expected, "ln_final.hook_out")
    assert lm.n_layers == 2


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resid_post", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]),
        ("resid_post.1", ["blocks.1.hook_resid_post"]),
        ("blocks.1.hook_resid_post", ["blocks.1.hook_resid_post"]),
        ("blocks.*.hook_attn_out", ["blocks.0.hook_attn_out", "blocks.1.hook_attn_out"]),
        ("*_module_out.0", ["blocks.0.hook_attn_module_out", "blocks.0.hook_mlp_module_out"]),
        ("embed", ["hook_embed"]),
        ("ln_final", ["ln_final.hook_out"]),
    ],
)
def test_short_forms_and_globs(lm, pattern, names):
    assert lm.resolve(pattern) == tuple(names)


def test_each_site_once_in_the_order_asked_for(lm):
    wanted = ("blocks.1.hook_resid_post", "blocks.0.hook_resid_post")
    assert lm.resolve("resid_post.1", "resid_post") == wanted


def test_unknown_site_is_refused_with_a_suggestion_and_what_exists(lm):
    with pytest.raises(SiteError) as caught:
        lm.resolve("resid_pots.1")
    message = str(caught.value)
    assert "no activation site matches 'resid_pots.1'" in message
    assert "Did you mean 'resid_post.1'?" in message
    assert "layers 0 to 1" in message
    assert "attn_module_out" in message


def test_layer_that_does_not_exist_is_refused(lm):
    with pytest.raises(SiteError, match=r"'resid_post.2'.*layers 0 to 1"):
        lm.resolve("resid_post.2")


def test_what_is_not_a_language_model_is_refused():
    import torch

    with pytest.raises(ModelError, match="Linear is not a Hugging Face causal LM"):
        HookedLM(torch.nn.Linear(2, 2))
