"""TransformerLens and nnsight on the same weights: true, live, and without touching the model."""

import socket
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer

from tests import tiny
from tests.activations.families import CONFIGS, RECURRENT, make
from tests.activations.models import batch as padded
from tests.activations.models import hook_count, loss
from workbench.activations import HookedLM
from workbench.adapters import merge_lora, with_lora
from workbench.errors import ModelError, SiteError

pytestmark = pytest.mark.slow  # importing either library takes seconds

COPIED = {
    "bloom", "codegen", "falcon", "falcon-new", "gpt_neox", "gpt_neox-sequential", "mpt",
}  # fmt: skip
"""Families whose fused attention TransformerLens copies out: a view is a snapshot."""
UNKNOWN = {"phimoe"}
"""Families that TransformerLens has no adapter for."""
VIEWED = sorted({*CONFIGS, *RECURRENT} - COPIED - UNKNOWN)
FUSED = {"gpt2": ["c_attn"], "phi3": ["qkv_proj"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise OSError("a view asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def ids():
    """Without padding tokens: both libraries derive a mask from them."""
    return torch.randint(6, tiny.VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model):
    out = model(ids())
    return getattr(out, "logits", out)


def state(model):
    """Everything about a model that a view might change."""
    return (
        {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()},
        [(name, type(m), m.training, "forward" in vars(m)) for name, m in model.named_modules()],
        model.config.to_dict(),
        model.config._attn_implementation,
        hook_count(model),
    )


def assert_untouched(before, after):
    assert before[1:] == after[1:]
    assert before[0].keys() == after[0].keys()
    for name, (identity, values) in before[0].items():
        assert after[0][name][0] == identity
        assert torch.equal(values, after[0][name][1])


@pytest.mark.parametrize("family", VIEWED)
def test_both_views_are_true_and_leave_the_model_as_it_was(family, tokenizer):
    lm = HookedLM(make(family).train())
    lm.model.eval()
    expected = logits(lm.model)
    lm.model.train()
    before = state(lm.model)
    lens, sight = lm.transformer_lens(tokenizer), lm.nnsight(tokenizer)
    assert_untouched(before, state(lm.model))
    assert not lens.training
    lm.model.eval()
    assert torch.equal(logits(lm.model), expected)
    assert torch.equal(logits(sight._module), expected)
    gap = (logits(lens) - expected).norm() / expected.norm()
    assert gap < 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "phi3", "qwen3", "mixtral"])
def test_views_follow_training_of_the_model(family, tokenizer):
    lm = HookedLM(make(family))
    lens, sight = lm.transformer_lens(tokenizer), lm.nnsight(tokenizer)
    before, x = logits(lm.model), padded()
    optimiser = torch.optim.SGD(lm.model.parameters(), lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        loss(lm(x), x).backward()
        optimiser.step()
    now = logits(lm.model)
    assert (now - before).norm() > 0.01 * before.norm()
    assert torch.equal(logits(sight._module), now)
    assert (logits(lens) - now).norm() < 1e-5 * now.norm()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_the_model_is_saved_adapted_and_trained_as_before(family, tokenizer, tmp_path):
    lm = HookedLM(make(family))
    lm.transformer_lens(tokenizer), lm.nnsight(tokenizer)
    lm.model.save_pretrained(tmp_path)
    again = type(lm.model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(lm.model))
    with_lora(lm.model, rank=2)


@pytest.mark.parametrize("family", sorted(COPIED - {"falcon-new"}))
def test_views_with_copied_parameters_are_snapshots_and_have_to_be_asked_for(family, tokenizer):
    lm = HookedLM(make(family))
    with pytest.raises(ModelError, match=r"copies \d+ parameters .*snapshot=True"):
        lm.transformer_lens(tokenizer)
    lens = lm.transformer_lens(tokenizer, snapshot=True)
    now = logits(lm.model)
    assert (logits(lens) - now).norm() < 1e-5 * now.norm()
    lm.nnsight(tokenizer)  # shares everything


def test_a_snapshot_goes_stale(tokenizer):
    lm = HookedLM(make("gpt_neox"))
    lens = lm.transformer_lens(tokenizer, snapshot=True)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.add_(0.05)
    now = logits(lm.model)
    assert (logits(lens) - now).norm() > 1e-2 * now.norm()


@pytest.mark.parametrize("family", FUSED)
def test_adapters_on_fused_projections_are_refused_until_merged(family, tokenizer):
    model = with_lora(make(family), rank=2, targets=FUSED[family])
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    lm = HookedLM(model)
    with pytest.raises(ModelError, match="adapter on a fused projection"):
        lm.transformer_lens(tokenizer)
    assert torch.equal(logits(lm.nnsight(tokenizer)._module), logits(model))
    merged = HookedLM(merge_lora(model))
    now = logits(merged.model)
    assert (logits(merged.transformer_lens(tokenizer)) - now).norm() < 1e-5 * now.norm()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_adapters_elsewhere_are_seen(family, tokenizer):
    model = with_lora(make(family), rank=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    lm, now = HookedLM(model), logits(model)
    lens = lm.transformer_lens(tokenizer)
    assert (logits(lens) - now).norm() < 1e-5 * now.norm()
    assert (logits(HookedLM(make(family)).model) - now).norm() > 0.01 * now.norm()
    assert torch.equal(logits(lm.nnsight(tokenizer)._module), now)


@pytest.mark.parametrize("family", ["phimoe", "falcon-new"])
def test_families_that_transformer_lens_cannot_show_are_refused_in_one_line(family, tokenizer):
    lm = HookedLM(make(family))
    with pytest.raises(ModelError, match="TransformerLens cannot show a") as caught:
        lm.transformer_lens(tokenizer)
    assert "\n" not in str(caught.value)
    lm.nnsight(tokenizer)


def test_weights_that_are_not_numbers_are_refused(tokenizer):
    lm = HookedLM(tiny.llama())
    torch.nn.init.constant_(lm.model.model.norm.weight, float("nan"))
    for view in (lm.transformer_lens, lm.nnsight):
        with pytest.raises(ModelError, match="differ by nan"):
            view(tokenizer)


def test_half_precision_views(tokenizer):
    lm = HookedLM(tiny.llama().to(torch.bfloat16))
    lens = lm.transformer_lens(tokenizer)
    assert lens.cfg.dtype == torch.bfloat16
    assert {p.dtype for p in lens.parameters()} == {torch.bfloat16}
    lm.nnsight(tokenizer)


def test_contexts_of_the_model_do_not_see_a_views_passes(tokenizer):
    lm = HookedLM(tiny.llama())
    lens = lm.transformer_lens(tokenizer)
    with pytest.raises(SiteError, match="no forward pass of this model"), lm.record("resid_post"):
        lens(ids())


def test_no_other_path_imports_either_library():
    code = (
        "import importlib, pkgutil, sys, workbench\n"
        "for m in pkgutil.walk_packages(workbench.__path__, 'workbench.'):\n"
        "    importlib.import_module(m.name)\n"
        "from tests import tiny\n"
        "from workbench.activations import HookedLM\n"
        "HookedLM(tiny.llama())\n"
        "print({'nnsight', 'transformer_lens'} & {n.split('.')[0] for n in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr[-2000:]


SHARDED = """
import sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from tests import tiny
from workbench.activations import HookedLM
from workbench.errors import ModelError
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
model = tiny.llama()
plain = HookedLM(model)
tokens = torch.arange(3, 12)[None]
with torch.no_grad(), plain.record("*") as before:
    model(tokens)
for block in model.model.layers:
    fully_shard(block)
fully_shard(model)
lm = HookedLM(model)
assert lm.sites == plain.sites
with torch.no_grad(), lm.record("*") as after:
    model(tokens)
assert all(type(x) is torch.Tensor and torch.equal(x, before[n]) for n, x in after.items())
for view in (lm.transformer_lens, lm.nnsight):
    try:
        view(tiny.tokenizer())
    except ModelError as error:
        print(error)
dist.destroy_process_group()
"""


def test_sharded_models_are_recorded_but_have_no_view(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, str(tmp_path / "store")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("it is sharded") == 2
