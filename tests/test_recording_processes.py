"""A model that two processes share (FSDP2) is recorded as if one process had it all."""

import os

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from tests import tiny
from tests.activations.models import adapted, batch
from tests.two_processes import spawned
from workbench.activations import HookedLM
from workbench.errors import ModelError, RecordingError
from workbench.positions import Mask
from workbench.recording import Recorder
from workbench.recordings import Recording

pytestmark = pytest.mark.slow

FAMILIES = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    "gemma3": tiny.gemma3,
    "adapted": lambda: adapted("llama"),
}
STEPS = (0, 2)
SITES = ("resid_post", "attn_out", "embed", "ln_final")


def panel():
    second = batch("left", seed=1)
    named = ("d", "e", "f")
    return [
        batch(),
        type(second)(second.input_ids, second.attention_mask, second.response_mask, named),
    ]


def train(model, at_moment=lambda moment, step: None):
    """Losses and final weights of plain gradient descent, the same batches in every process."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(3):
        at_moment("begin", step)
        x = batch(seed=step)
        logits = model(x.input_ids, attention_mask=x.attention_mask.long()).logits
        loss = logits.float().square().mean()
        at_moment("forward", step)
        loss.backward()
        at_moment("backward", step)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    whole = {
        name: p.full_tensor() if hasattr(p, "full_tensor") else p.detach()
        for name, p in model.named_parameters()
    }
    return losses, whole


def train_and_record(model, folder, moment="begin", **more):
    with Recorder(folder, panel(), SITES, at=STEPS, dtype="fp32", **more) as recorder:
        return train(model, lambda now, step: now == moment and recorder(model, step))


def shard(model, **more):
    for block in HookedLM(model, check=False).parts.blocks:
        fully_shard(block, **more)
    return fully_shard(model, **more)


def even(x):
    return x.attention_mask & (torch.arange(x.attention_mask.shape[1]) % 2 == 0)


POSITIONS = {
    "llama": "all",
    "gpt2": "mean_response",
    "gemma3": Mask("even", even),
    "adapted": "all",
}
MOMENTS = ("begin", "forward", "backward")
TRAINED = ("llama", "adapted")


def worker(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    for name, make in FAMILIES.items():
        train_and_record(shard(make()), f"{folder}/{name}", positions=POSITIONS[name])
    trained = {name: {"never": train(shard(FAMILIES[name]()))} for name in TRAINED}
    for name, found in trained.items():
        for moment in MOMENTS:
            model = shard(FAMILIES[name]())
            found[moment] = train_and_record(model, f"{folder}/{name}-{moment}", moment)
    torch.save(trained, f"{folder}/trained.{rank}")
    refusals = []
    for more in ({}, {"max_bytes": 10, "resume": True}):  # exists already; too large
        try:
            train_and_record(shard(tiny.llama()), f"{folder}/llama", positions="all", **more)
        except Exception as error:
            refusals.append(f"{type(error).__name__}: {error}")
    lm = HookedLM(shard(tiny.llama()))
    for blocks in (None, 1):
        try:
            lm.stream(batch(), blocks)
        except ModelError as error:
            refusals.append(str(error))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    model = shard(tiny.llama(), mp_policy=half)
    with Recorder(f"{folder}/half", panel(), SITES, positions="all") as recorder:
        recorder(model, 0)
    torch.save(refusals, f"{folder}/refusals.{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return spawned(worker, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_activations_as_one_process(together, tmp_path, name):
    train_and_record(FAMILIES[name](), tmp_path / "alone", positions=POSITIONS[name])
    alone, shared = Recording(tmp_path / "alone"), Recording(together / name)
    shared.verify()
    assert shared.manifest.complete and shared.sites == alone.sites and shared.steps == STEPS
    for site in alone.sites:
        np.testing.assert_array_equal(alone.read(site, step=0), shared.read(site, step=0))
        one, two = (recording.read(site, step=2) for recording in (alone, shared))
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)  # gradients summed in two parts
    assert not np.array_equal(
        alone.read(alone.sites[-1], step=0), alone.read(alone.sites[-1], step=2)
    )


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", TRAINED)
def test_training_is_the_same_whenever_a_step_is_recorded(together, name, moment):
    """A pass without backward would leave the outermost module's parameters as they were then."""
    for rank in (0, 1):
        trained = torch.load(together / f"trained.{rank}")[name]
        (losses, weights), (plain, expected) = trained[moment], trained["never"]
        assert losses == plain
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[n], expected[n]) for n in expected)
    alone, _ = train(FAMILIES[name]())
    np.testing.assert_allclose(plain, alone, rtol=1e-4)  # gradients summed in two parts


def test_a_part_of_a_shared_model_cannot_run_alone(together):
    for rank in (0, 1):
        whole, lower = torch.load(together / f"refusals.{rank}")[2:]
        assert whole == lower
        assert "LlamaModel cannot run alone" in whole and "(FSDP2)" in whole


def test_what_one_process_refuses_all_refuse(together):
    """Otherwise the others would wait for it for ever."""
    first, second = (torch.load(together / f"refusals.{rank}") for rank in (0, 1))
    assert first[0].startswith(RecordingError.__name__) and "already holds" in first[0]
    assert second[0].startswith("RecordingError: the first process cannot record: ")
    assert first[1] == second[1] and "more than the 10 B allowed" in first[1]


def test_half_precision_is_recorded_as_it_is_computed(together):
    recording = Recording(together / "half")
    full = Recording(together / "llama")
    one, two = (r.read("blocks.1.hook_resid_post", step=0) for r in (recording, full))
    assert 0 < np.abs(one - two).max() < 0.1 * np.abs(two).max()
