"""Response entropy and the bound: gradient and Jacobian against dense ones, invariants, errors."""

import math
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests import tiny
from tests.probes.texts import AT, TinyDomain, panel, rows_of
from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.errors import InvalidValueError
from workbench.optimisation import Fit
from workbench.panel import Panel
from workbench.policy_gradient import reinforce
from workbench.probes import EntropyBound
from workbench.probes._policy_gradient import Declared, longest_output
from workbench.readout import read_out
from workbench.rollouts import roll_out
from workbench.verdicts import Verdict


@dataclass(frozen=True)
class Coin(TinyDomain):
    """Rewards answers of an even number of letters: something a random model gets half right."""

    share: int = 2

    def judge(self, question, text):
        good = len(text) % self.share == 0
        return Verdict(refused=not good, complied=good, right=float(good), evaded=False,
                       broken=False, success=good)  # fmt: skip


def drawn(model, domain=None, k=4, **how):
    domain = domain or Coin()
    asked = domain.questions("test", "hazard")[:3]
    return roll_out(model, tiny.tokenizer(), domain, asked, rollouts=k, **how)


def values(rows):
    return {r.measure: r.value for r in rows if r.kind == "policy_bound"}


def coins(**settings):
    texts = Panel(Coin(), tiny.tokenizer())
    return lambda model: EntropyBound(**settings).against(None, texts)(model, AT)


@pytest.fixture(params=list(tiny.FAMILIES))
def model(request):
    return tiny.FAMILIES[request.param](seed=0).eval()


def test_rollouts_are_the_tokens_that_were_drawn(model):
    for side in ("left", "right"):
        found = drawn(model, side=side)
        assert found.rewards.shape == (3, 4) and len(set(found.batch.examples)) == 12
        for text, ids, drawn_ in zip(
            found.texts, found.batch.input_ids, found.batch.response_mask, strict=True
        ):
            assert tiny.tokenizer().decode(ids[drawn_], skip_special_tokens=True) == text
    assert found.advantages.sum(1).abs().max() < 1e-6
    assert len(found.of_prompt(1)) == 4 and found.of_prompt(1).examples == found.batch.examples[4:8]


def test_equal_rewards_give_no_advantage(model):
    found = drawn(model, Coin(share=1))
    assert found.rewards.eq(1).all() and found.sigma.eq(0).all() and found.advantages.eq(0).all()


def dense(model, batch, row, parameters):
    """∂logits/∂θ at every response position of one row, by one backward a logit."""
    one = batch.rows([row])
    logits = HookedLM(model)(one).logits[:, :-1][one.scored]
    for position in logits:
        yield torch.stack(
            [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(z, parameters, retain_graph=True)]
                )
                for z in position
            ]
        )


def parts(model, scope):
    lm = HookedLM(model)
    head = model.get_output_embeddings().weight
    below = [*lm.parts.blocks[-1].parameters(), *lm.parts.final_norm.parameters()]
    return [head, *(below if scope == "last_block" else [])]


@pytest.mark.parametrize("scope", ["head", "last_block"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_norm_and_gradient_are_those_of_dense_jacobians(family, scope):
    model = tiny.FAMILIES[family](seed=0, vocab_size=20).eval()
    ids = torch.randint(3, 20, (2, 7), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(ids, dtype=torch.bool)
    batch = Batch(ids, real, torch.arange(7).expand(2, 7) >= 4, ("a", "b"))
    weights = torch.tensor([0.3, -0.7])
    found = Declared(model, scope).measure(batch, weights)
    parameters = parts(model, scope)
    norms = [
        torch.linalg.matrix_norm(j, ord=2).item()
        for row in range(2) for j in dense(model, batch, row, parameters)
    ]  # fmt: skip
    assert found.norm == pytest.approx(max(norms), rel=1e-4)
    logs = HookedLM(model)(batch).logits[:, :-1].log_softmax(-1)
    chosen = logs.gather(-1, batch.input_ids[:, 1:, None])[..., 0] * batch.scored
    expected = torch.autograd.grad((weights * chosen.sum(1)).sum(), parameters)
    assert found.gradient.norm() == pytest.approx(
        torch.cat([g.flatten() for g in expected]).norm().item(), rel=1e-4
    )


def test_the_head_alone_has_the_norm_of_its_input(model):
    batch = drawn(model).of_prompt(0)
    lm = HookedLM(model)
    hidden = lm.stream(batch)[:, :-1][batch.scored]
    scale = abs(read_out(lm).scale)
    found = Declared(model, "head").measure(batch, torch.ones(4))
    assert found.norm == pytest.approx(scale * hidden.norm(dim=-1).max().item(), rel=1e-5)


def test_no_prefix_exceeds_what_the_final_norm_allows(model):
    """Of random states none does; the one that is all in the largest gain nearly gets there."""
    lm = HookedLM(model)
    norm, width = lm.parts.final_norm, 32
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in norm.parameters():
            p.add_(torch.randn(p.shape, generator=draw))
    most = longest_output(norm, width)
    lengths = norm(5 * torch.randn(1000, width, generator=draw)).norm(dim=-1)
    peaks = norm(1000 * torch.cat([torch.eye(width), -torch.eye(width)])).norm(dim=-1)
    assert lengths.max() <= most and peaks.max() <= most
    assert peaks.max() > (0.6 if list(norm.parameters())[1:] else 0.999) * most
    assert Declared(model, "head").norm_bound() == pytest.approx(abs(read_out(lm).scale) * most)
    assert Declared(model, "last_block").norm_bound() is None


def test_an_unknown_norm_has_no_bound_and_the_drawn_norm_is_plugged_in(monkeypatch):
    assert longest_output(nn.Sequential(nn.Tanh(), nn.Linear(8, 8)), 8) is None
    assert longest_output(nn.Identity(), 8) is None
    monkeypatch.setattr(Declared, "norm_bound", lambda self: None)
    bound = values(coins(prompts=2, rollouts=4)(tiny.llama().eval()))
    assert "lambda_upper" not in bound
    assert bound["bound"] == pytest.approx(bound["lambda_drawn"] * bound["fuel"], rel=1e-5)


def test_profiles_are_means_over_the_rollouts_that_reach_a_position(model):
    rows = coins(prompts=2, rollouts=4)(model)
    found = roll_out(model, tiny.tokenizer(), Coin(), Coin().questions("test", "hazard")[:2],
                     rollouts=4)  # fmt: skip
    one = found.of_prompt(0)
    logs = HookedLM(model)(one).logits[:, :-1].double().log_softmax(-1)
    by_rollout = [(-(x.exp() * x).sum(-1))[m] for x, m in zip(logs, one.scored, strict=True)]
    (row,) = [r for r in rows if getattr(r, "example", "") == "hazard0" and r.measure == "entropy"]
    for k, value in enumerate(row.values):
        expected = torch.stack([x[k] for x in by_rollout if len(x) > k]).mean().item()
        assert value == pytest.approx(expected, rel=1e-4)
    assert len(row.values) == max(map(len, by_rollout))
    bound = values(rows)
    assert bound["gini_sum"] <= bound["entropy_sum"] and bound["bound"] <= bound["entropy_bound"]
    assert bound["bound"] == pytest.approx(bound["lambda_upper"] * bound["fuel"], rel=1e-5)
    assert bound["lambda_drawn"] <= bound["lambda_upper"]
    assert all(0 <= v <= math.log(tiny.VOCABULARY) for r in rows for v in getattr(r, "values", []))


def test_the_measured_gradient_is_that_of_leave_one_out_rewards(model):
    """Each reward against the mean of its prompt's other rollouts: without bias."""
    found = values(coins(prompts=2, rollouts=3)(model))
    asked = Coin().questions("test", "hazard")[:2]
    one = roll_out(model, tiny.tokenizer(), Coin(), asked, rollouts=3)
    logs = HookedLM(model)(one.batch).logits[:, :-1].log_softmax(-1)
    chosen = (logs.gather(-1, one.batch.input_ids[:, 1:, None])[..., 0] * one.batch.scored).sum(1)
    total = 0
    for prompt in range(2):
        for k in range(3):
            others = [one.rewards[prompt, j] for j in range(3) if j != k]
            total += (one.rewards[prompt, k] - sum(others) / 2) * chosen[3 * prompt + k] / 3 / 2
    (gradient,) = torch.autograd.grad(total, model.get_output_embeddings().weight)
    assert found["measured"] == pytest.approx(gradient.norm().item(), rel=1e-3, abs=1e-6)
    assert found["sigma_R"] == pytest.approx(one.rewards.var(1).sqrt().mean().item())
    assert found["reward"] == pytest.approx(one.rewards.mean().item())


def test_a_certain_policy_cannot_be_moved():
    certain = tiny.llama().eval()
    with torch.no_grad():
        certain.lm_head.weight.mul_(1000)
    bound = values(coins()(certain))
    assert bound["gini_sum"] < 1e-3 and bound["measured"] == 0 == bound["bound"]
    assert "ratio" not in bound and bound["silent"] == 1


def test_frozen_parameters_are_measured_and_stay_frozen():
    model = tiny.llama().eval()
    free = values(coins(parameters="last_block", prompts=1, rollouts=2)(model))
    model.requires_grad_(False)
    assert values(coins(parameters="last_block", prompts=1, rollouts=2)(model)) == free
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("bad", [{"rollouts": 1}, {"prompts": 0}])
def test_too_few_are_refused(bad):
    with pytest.raises(InvalidValueError, match="at least"):
        EntropyBound(**bad)
    with pytest.raises(InvalidValueError, match="two rollouts"):
        drawn(tiny.llama(), k=1)


def test_no_hazards_and_too_large_a_block_are_refused(monkeypatch):
    with pytest.raises(InvalidValueError, match="no hazardous request"):
        EntropyBound().against(None, panel(n=0))
    monkeypatch.setattr("workbench.probes._policy_gradient.ROOM", 1000)
    with pytest.raises(InvalidValueError, match="Set parameters to `head`"):
        Declared(tiny.llama(), "last_block")


def test_reinforcing_what_is_always_rewarded_changes_nothing():
    model = tiny.llama().eval()
    before = deepcopy(model.state_dict())
    domain, config = Coin(share=1), Fit(steps=2, batch_size=4, warmup=0)
    asked = domain.questions("attack", "hazard")
    done = list(reinforce(model, tiny.tokenizer(), domain, asked, config, rollouts=3))
    assert [s.losses["policy"] for s in done] == [0.0, 0.0]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_reinforcing_is_reproducible_and_moves_the_model():
    def moved(seed):
        model, domain = tiny.llama().eval(), Coin()
        config = Fit(steps=2, batch_size=4, warmup=0, micro_batch=5)
        asked = domain.questions("attack", "hazard")
        list(reinforce(model, tiny.tokenizer(), domain, asked, config, rollouts=3, seed=seed))
        return model.state_dict()

    start, one, again, other = tiny.llama().state_dict(), moved(0), moved(0), moved(1)
    name = "lm_head.weight"
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], start[name]) and not torch.equal(one[name], other[name])


@pytest.mark.slow
def test_on_the_lab_model_the_gradient_stays_below_its_bound_while_it_is_reinforced():
    """What docs/analyses/entropy.md reports, shorter."""
    from workbench.lab.domain import LabDomain
    from workbench.models import load
    from workbench.probes import At

    lab, domain = load("lab:oracle"), LabDomain()
    measure = EntropyBound(reward="complied").against(None, Panel(domain, lab.tokenizer))
    found = [values(measure(lab.model, At("attack", 0, "")))]
    config = Fit(steps=8, lr=1e-4, batch_size=8, schedule="constant", warmup=0)
    asked = domain.questions("attack", "hazard")
    for step in reinforce(lab.model, lab.tokenizer, domain, asked, config, reward="complied"):
        found.append(values(measure(lab.model, At("attack", step.step, ""))))
    assert all(x["measured"] <= x["bound"] for x in found)
    assert found[-1]["reward"] > found[0]["reward"]


def test_rows_name_no_reference():
    assert {
        r.group for r in rows_of(EntropyBound(), tiny.llama(), None) if hasattr(r, "group")
    } == {"hazard"}
