"""Micro-batches add up to the batch, whatever the terms are means over; memory that runs out."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from tests import tiny
from tests.test_training import FIT, stream, weights
from workbench.accumulation import Context, Mean, parts
from workbench.activations import HookedLM
from workbench.data import Example, encode
from workbench.errors import InvalidValueError, TrainingError
from workbench.losses import cross_entropy, token_nll
from workbench.memory_limit import within_memory
from workbench.resume import Randomness
from workbench.training import fit

TEXTS = [Example(str(i), f"say {i} " * (i + 1), "word " * (6 - i)) for i in range(6)]
BATCHES = {"a": encode(tiny.tokenizer(), TEXTS), "b": encode(tiny.tokenizer(), TEXTS[::-1])}
ONE = Accelerator()


@pytest.mark.parametrize("over", ["response", "tokens", "slots", "rows"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_shares_of_the_parts_add_up_to_one_and_means_to_the_mean(over, size):
    """A mean over x of the parts, weighed by how many x each has, is the mean over the whole."""
    mean, weight = Mean("a", over), torch.ones((), requires_grad=True)

    def total(part):  # a sum that is additive over rows, divided by the part's own count
        tokens = part["a"].input_ids.where(part["a"].attention_mask, torch.tensor(0))
        return {"term": weight * tokens.sum() / mean.count(part)}

    whole = total(BATCHES)["term"].item()
    found = Context(0, 1, torch.Generator(), ONE, size).minimise(total, BATCHES, {"term": mean})
    # also over slots, although the parts' own padding is trimmed: numerators add up
    assert float(found["term"]) == pytest.approx(whole, rel=1e-6)
    assert float(weight.grad) == pytest.approx(whole, rel=1e-6)


def test_streams_of_different_sizes_are_split_into_equally_many_parts():
    small = {"a": BATCHES["a"], "b": BATCHES["b"].rows([0, 1, 2])}
    sizes = [(len(p["a"]), len(p["b"])) for p in parts(small, 2, ONE)]
    assert sizes == [(2, 1), (2, 1), (2, 1)]
    with pytest.raises(InvalidValueError, match="'b' has 3 rows a step, too few for 6"):
        list(parts(small, 1, ONE))


def starved(model, fits, coupled=False, seen=None, steps=FIT.steps):
    """Fine-tuning on a machine whose memory holds only `fits` examples at a time."""
    lm = HookedLM(model, check=False)

    def loss(part, generator):
        if seen is not None:
            seen.append((len(part["align"]), float(torch.rand((), generator=generator))))
        value = token_nll(lm(part["align"]).logits, part["align"])
        if len(part["align"]) > fits:
            value.sum().backward()  # leaves gradients behind, as a failure in backward does
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {"align": cross_entropy(lm(part["align"]).logits, part["align"])}

    def objective(batches, context):
        scores = {"align": Mean("align")}
        return context.minimise(lambda part: loss(part, context.generator), batches, scores)

    config = replace(FIT, steps=steps)
    return fit(model, stream(), objective, config, coupled=coupled)


def test_out_of_memory_is_more_accumulation_and_the_same_training():
    plain, short = tiny.llama(), tiny.llama()
    a, b = starved(plain, fits=4), starved(short, fits=1)
    assert [s.micro_batch for s in a] == [4] * 6
    assert [s.micro_batch for s in b] == [1] * 6
    assert a[0].losses["align"] == pytest.approx(b[0].losses["align"], rel=1e-5)
    assert a[0].grad_norm == pytest.approx(b[0].grad_norm, rel=1e-4)
    torch.testing.assert_close(weights(plain), weights(short), rtol=1e-2, atol=2e-3)


def test_every_attempt_draws_the_same_random_numbers_and_the_size_is_kept():
    seen = []
    starved(tiny.llama(), fits=2, seen=seen, steps=2)
    assert [size for size, _ in seen] == [4, 2, 2, 2, 2]
    assert seen[0][1] == seen[1][1]
    assert len({number for _, number in seen[1:]}) == 4


def test_a_coupled_objective_stops_and_names_the_size_that_fits():
    model = tiny.llama()
    before = weights(model)
    with pytest.raises(
        TrainingError, match=r"step 1: out of memory with 4.* 2 examples.*micro_batch=2"
    ):
        starved(model, fits=2, coupled=True)
    assert torch.equal(weights(model), before)


def test_memory_that_holds_not_one_example_is_said():
    with pytest.raises(TrainingError, match=r"out of memory with 4 .*Fewer at a time do not work"):
        starved(tiny.llama(), fits=0)


class OneOfTwo(Accelerator):
    """What one of two processes sees."""

    num_processes = 2

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    @property
    def process_index(self):
        return self.rank


def test_a_size_that_the_method_refuses_is_not_the_users_mistake():
    """The user gave four; that two are too few for the method is news about memory."""
    lm = HookedLM(tiny.llama(), check=False)

    def objective(batches, context):
        if context.micro_batch is None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        raise InvalidValueError("this method needs at least three examples at a time")

    with pytest.raises(TrainingError, match=r"out of memory with 4 .*at least three examples"):
        fit(lm.model, stream(), objective, FIT)


def test_several_processes_stop_together_instead_of_choosing_each_for_itself():
    context = Context(3, 9, torch.Generator(), OneOfTwo(0), None)

    def take(context):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(TrainingError, match=r"step 4: .* 6 examples .*micro_batch=3"):
        within_memory(take, context, 6, Randomness(0, torch.device("cpu")), [], coupled=False)


def test_noise_differs_between_processes_and_the_shared_numbers_go_on_alike():
    def drawn(rank):
        shared = torch.Generator().manual_seed(7)
        noise = torch.randn(4, generator=Context(0, 1, shared, OneOfTwo(rank)).noise())
        return noise, torch.randn(4, generator=shared)

    (a, after_a), (b, after_b) = drawn(0), drawn(1)
    assert not torch.equal(a, b) and torch.equal(after_a, after_b)
    alone = torch.Generator()
    assert Context(0, 1, alone, ONE).noise() is alone


def test_another_error_is_not_taken_for_a_lack_of_memory():
    def objective(batches, context):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fit(tiny.llama(), stream(), objective, FIT)
