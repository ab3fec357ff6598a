"""Per-token gradient norms beside one backward pass a token."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from tests import tiny
from workbench.activations import HookedLM
from workbench.adapters import with_lora
from workbench.data import Batch, encode
from workbench.errors import InvalidValueError, ModelError, WorkbenchWarning
from workbench.gradient_factors import parts_of
from workbench.token_gradients import token_gradient_norms

TIED = [(name, tied) for name in tiny.FAMILIES for tied in (False, True)]


@pytest.fixture(scope="module")
def batch():
    return encode(tiny.tokenizer(), tiny.examples())


def oracle(model, batch, tokens):
    """A backward pass a token, all gradients in full: norms by part, `[part, token]` an example."""
    lm = HookedLM(model, check=False)
    wanted = [p for p in model.parameters() if p.requires_grad]
    places = parts_of(lm, wanted)
    found = []
    for i in range(len(batch)):
        one = batch.rows([i])
        logits = lm(one).logits[0]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        columns = []
        for at in one.scored[0].nonzero().flatten()[:tokens]:
            loss = -wide[at].log_softmax(-1)[one.input_ids[0, at + 1]]
            grads = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
            squares = dict.fromkeys(places.values(), 0.0)
            for p, g in zip(wanted, grads, strict=True):
                squares[places[id(p)]] += 0.0 if g is None else float(g.double().square().sum())
            columns.append(squares | {"total": sum(squares.values())})
        found.append({k: [math.sqrt(c[k]) for c in columns] for k in columns[0]})
    return found


def agree(model, batch, rel, tokens=7, **settings):
    for want, got in zip(
        oracle(model, batch, tokens),
        token_gradient_norms(model, batch, tokens=tokens, **settings),
        strict=True,
    ):
        for part, row in zip(got.parts, got.norms.tolist(), strict=True):
            assert row == pytest.approx(want.get(part, [0.0] * len(row)), rel=rel, abs=1e-12), part


@pytest.mark.parametrize(("name", "tied"), TIED)
def test_norms_are_those_of_one_backward_pass_a_token(name, tied, batch):
    agree(tiny.FAMILIES[name](tie_word_embeddings=tied), batch, rel=1e-4, chunk=3)


@pytest.mark.parametrize(("name", "tied"), TIED)
def test_norms_are_exact_in_double_precision(name, tied, batch, monkeypatch):
    """Norm layers of the library round to fp32 inside; here they do not."""

    def forward(norm, x):
        scale = 1 + norm.weight if isinstance(norm, Gemma3RMSNorm) else norm.weight
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * scale

    for kind in (LlamaRMSNorm, Qwen3RMSNorm, Gemma3RMSNorm):
        monkeypatch.setattr(kind, "forward", forward)
    agree(tiny.FAMILIES[name](tie_word_embeddings=tied).double(), batch, rel=1e-9, chunk=4)


def test_adapters_alone_count_and_frozen_parameters_if_asked_for(batch):
    model = with_lora(tiny.llama(), rank=2, alpha=4.0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(1))
    agree(model, batch, rel=1e-4)
    adapters = token_gradient_norms(model, batch, tokens=3)
    assert (adapters[0].norms[list(adapters[0].parts).index("head")] == 0).all()
    every = token_gradient_norms(model, batch, tokens=3, frozen=True)
    assert (every[0].norms[-1] > adapters[0].norms[-1]).all()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)  # put back


@pytest.mark.parametrize("chunk", [1, 2, 5, 50])
def test_chunks_change_nothing(chunk, batch):
    model = tiny.llama()
    one, other = (token_gradient_norms(model, batch, tokens=9, chunk=c) for c in (chunk, 4))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.norms, b.norms, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a.nll, b.nll, rtol=1e-4, atol=1e-5)


def test_padding_and_order_change_nothing(batch):
    model, left = tiny.gpt2(), encode(tiny.tokenizer(), tiny.examples(), side="left")
    for a, b in zip(
        token_gradient_norms(model, batch, tokens=4),
        reversed(token_gradient_norms(model, left.rows([3, 2, 1, 0]), tokens=4)),
        strict=True,
    ):
        assert a.example == b.example and torch.equal(a.norms, b.norms)


@pytest.mark.parametrize("tied", [False, True])
def test_no_gradient_in_the_shape_of_a_matrix_is_built(tied, batch):
    """Every tensor that an operation makes is looked at; no text is as long as the model is wide.

    The oracle is seen to build them, so the watch sees what it should.
    """
    model = tiny.llama(
        tie_word_embeddings=tied, hidden_size=63, intermediate_size=70, head_dim=22,
        num_attention_heads=3, num_key_value_heads=3,
    )  # fmt: skip
    shapes = {tuple(p.shape) for p in model.parameters() if p.dim() > 1}
    shapes |= {shape[::-1] for shape in shapes}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in own:
                    seen.extend([func] if tuple(x.shape[-2:]) in shapes else [])
            return out

    with Watch():
        token_gradient_norms(model, batch, tokens=5)
    assert batch.input_ids.shape[1] < 60 and not seen
    assert all(p.grad is None for p in model.parameters())
    with Watch():
        oracle(model, batch, 1)
    assert seen


class Squared(nn.Module):
    """A layer of no known kind, with a matrix of its own."""

    def __init__(self, size):
        super().__init__()
        self.matrix = nn.Parameter(0.1 * torch.randn(size, size))

    def forward(self, x):
        return x + (x @ self.matrix).square()


def test_a_parameter_of_an_unknown_owner_is_exact_and_named(batch):
    torch.manual_seed(0)
    model = tiny.llama()
    model.model.layers[1].mlp = nn.Sequential(model.model.layers[1].mlp, Squared(32))
    with pytest.warns(WorkbenchWarning, match=r"layers\.1\.mlp\.1\.matrix"):
        agree(model, batch, rel=1e-4)


def test_a_layer_that_is_called_twice_sums_its_gradients(batch):
    model = tiny.llama()
    model.model.layers[1].mlp.down_proj = model.model.layers[0].mlp.down_proj
    agree(model, batch, rel=1e-4)


class NoVmap(torch.autograd.Function):
    """What vmap cannot go through."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * (1 + 0 * float(grad.sum().item()))


def test_where_vmap_fails_tokens_go_one_by_one(batch):
    model = tiny.llama()
    model.model.layers[0].register_forward_hook(lambda m, a, out: NoVmap.apply(out))
    with pytest.warns(WorkbenchWarning, match="one by one"):
        found = token_gradient_norms(model, batch.rows([1]), tokens=4)
    plain = token_gradient_norms(tiny.llama(), batch.rows([1]), tokens=4)
    torch.testing.assert_close(found[0].norms, plain[0].norms, rtol=1e-5, atol=1e-7)


def test_a_token_depends_on_no_later_one(batch):
    model, one = tiny.llama(), batch.rows([3])
    longer, shorter = (token_gradient_norms(model, one, tokens=n)[0] for n in (8, 3))
    torch.testing.assert_close(longer.norms[:, :3], shorter.norms, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("tokens", "chunk"), [(0, 4), (-1, 4), (3, 0)])
def test_no_tokens_are_refused(batch, tokens, chunk):
    with pytest.raises(InvalidValueError, match="at least 1"):
        token_gradient_norms(tiny.llama(), batch, tokens=tokens, chunk=chunk)


def test_examples_without_response_are_refused(batch):
    empty = Batch(batch.input_ids, batch.attention_mask, torch.zeros_like(batch.response_mask),
                  batch.examples)  # fmt: skip
    with pytest.raises(InvalidValueError, match=r"'e0' has no response token"):
        token_gradient_norms(tiny.llama(), empty)


def test_nothing_to_differentiate_is_refused(batch):
    model = tiny.llama().requires_grad_(False)
    with pytest.raises(ModelError, match="frozen=True"):
        token_gradient_norms(model, batch)
    assert token_gradient_norms(model, batch, tokens=1, frozen=True)
    assert not any(p.requires_grad for p in model.parameters())


def test_what_is_not_finite_is_refused(batch):
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        token_gradient_norms(model, batch)
