"""The entropy bound on policies small enough to enumerate, with dense Jacobians in float64."""

import math
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jacrev

from workbench.losses import entropy
from workbench.policy_bound import fuel, gini, gradient_bound

LOGITS = st.lists(st.floats(-30, 30), min_size=2, max_size=6)


@dataclass
class Policy:
    """Logits after every prefix as a function of one parameter vector."""

    vocabulary: int
    length: int
    seed: int
    scale: float
    network: bool

    def __post_init__(self):
        draw = torch.Generator().manual_seed(self.seed)
        self.prefixes = [
            p for t in range(self.length) for p in product(range(self.vocabulary), repeat=t)
        ]
        n, width = len(self.prefixes), 4
        self.features = torch.randn(n, 3, generator=draw, dtype=torch.float64)
        self.shapes = [(3, width), (width, self.vocabulary)]
        size = sum(a * b for a, b in self.shapes) if self.network else n * self.vocabulary
        self.theta = self.scale * torch.randn(size, generator=draw, dtype=torch.float64)
        kinds = torch.randn(self.vocabulary**self.length, generator=draw, dtype=torch.float64)
        self.reward = kinds if self.seed % 2 else (kinds > 0.5).double()

    def logits(self, theta):
        if not self.network:
            return theta.view(-1, self.vocabulary)
        one, two = theta.split([a * b for a, b in self.shapes])
        hidden = torch.tanh(self.features @ one.view(self.shapes[0]))
        return hidden @ two.view(self.shapes[1])

    def of_sequences(self, theta):
        """The probability of every sequence."""
        logs = dict(zip(self.prefixes, self.logits(theta).log_softmax(-1), strict=True))
        return torch.stack(
            [
                sum(logs[y[:t]][y[t]] for t in range(self.length))
                for y in product(range(self.vocabulary), repeat=self.length)
            ]
        ).exp()

    def expected(self, by_prefix):
        """Σ_t E of a quantity of the prefix."""
        logs = dict(zip(self.prefixes, self.logits(self.theta).log_softmax(-1), strict=True))
        return sum(
            torch.stack([logs[p[:t]][p[t]] for t in range(len(p))]).sum().exp() * x if p else x
            for p, x in zip(self.prefixes, by_prefix, strict=True)
        )

    def sides(self):
        """‖∇J‖, and its bound by ginis and by entropies."""
        theta = self.theta.clone().requires_grad_()
        gain = self.of_sequences(theta) @ self.reward
        (gradient,) = torch.autograd.grad(gain, theta)
        chance = self.of_sequences(self.theta)
        sigma = (chance @ (self.reward - gain.detach()).square()).sqrt()
        norm = torch.linalg.matrix_norm(jacrev(self.logits)(self.theta), ord=2).max()
        logits = self.logits(self.theta)
        # losses.entropy computes in fp32, too coarse here
        entropies = torch.distributions.Categorical(logits=logits).entropy()
        return (
            gradient.norm().item(),
            gradient_bound(sigma[None], self.expected(gini(logits))[None], norm).item(),
            gradient_bound(sigma[None], self.expected(entropies)[None], norm).item(),
        )


@settings(max_examples=200, deadline=None)
@given(
    vocabulary=st.integers(3, 5), length=st.integers(1, 3), seed=st.integers(0, 10**6),
    scale=st.floats(0.01, 5), network=st.booleans(),
)  # fmt: skip
def test_no_enumerable_policy_violates_the_bound(vocabulary, length, seed, scale, network):
    measured, bound, looser = Policy(vocabulary, length, seed, scale, network).sides()
    assert measured <= bound * (1 + 1e-9) + 1e-12
    assert bound <= looser * (1 + 1e-9) + 1e-12


@given(st.floats(-8, 8), st.floats(0.1, 10))
def test_a_single_choice_between_two_attains_it(z, reward):
    policy = Policy(2, 1, 1, 1.0, network=False)
    policy.theta = torch.tensor([z, 0.0], dtype=torch.float64)
    policy.reward = torch.tensor([reward, 0.0], dtype=torch.float64)
    measured, bound, _ = policy.sides()
    assert measured == pytest.approx(bound, rel=1e-9)


def test_the_jacobian_is_needed():
    """Logits that move twice as far a parameter double the gradient: without Λ it would fail."""
    policy = Policy(2, 1, 1, 1.0, network=False)
    once = policy.sides()
    plain = policy.logits
    policy.logits = lambda theta: 10 * plain(theta)
    policy.theta = policy.theta / 10
    ten = policy.sides()
    assert ten[0] == pytest.approx(10 * once[0]) and ten[1] == pytest.approx(10 * once[1])


@given(LOGITS)
def test_gini_and_entropy_keep_their_ranges(values):
    z = torch.tensor(values, dtype=torch.float64)
    h, g = entropy(z).item(), gini(z).item()
    assert -1e-6 <= h <= math.log(len(values)) + 1e-6
    assert 0 <= g <= 1 - 1 / len(values) + 1e-12
    assert g <= h + 1e-5


@given(LOGITS, st.floats(0.05, 1), st.floats(0.05, 1))
def test_both_fall_with_the_temperature(values, one, other):
    z, (cold, warm) = torch.tensor(values, dtype=torch.float64), sorted((one, other))
    assert gini(z / cold) <= gini(z / warm) + 1e-9
    assert entropy(z / cold) <= entropy(z / warm) + 1e-3  # fp32 inside


def test_a_point_mass_has_no_fuel():
    z = torch.tensor([0.0, 2000.0, 0.0])
    assert gini(z) == 0 == entropy(z)
    assert fuel(torch.tensor([0.5]), gini(z)[None]) == 0
    policy = Policy(3, 2, 3, 1.0, network=False)
    policy.theta = policy.theta + 1e4 * torch.eye(3, dtype=torch.float64)[0].repeat(4)
    assert policy.sides()[0] == 0


def test_rounding_does_not_make_a_gini_negative():
    z = torch.randn(1000, 50, generator=torch.Generator().manual_seed(0)) * 30
    assert (gini(z) >= 0).all() and (gini(z.bfloat16()) >= 0).all()
