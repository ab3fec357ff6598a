"""What every registered attack promises."""

import dataclasses
import json
import re
import sys

import pytest
import torch

from tests import tiny
from tests.test_defences import hooks, streams
from workbench.attacks import ATTACKS, SupervisedFineTuning
from workbench.errors import InvalidValueError, MissingStreamError

SMALL = {"sft": {"steps": 4, "samples": 8, "batch_size": 4, "lr": 1e-2}}


@pytest.fixture(params=ATTACKS)
def name(request):
    return request.param


def make(name, **changes):
    return ATTACKS[name](**SMALL[name] | changes)


def test_yields_the_released_model_first_and_then_every_step(name):
    model, attack = tiny.llama(), make(name)
    seen = []
    for now in attack.run(model, streams(attack.streams)):
        seen.append((now.step, now.spent.samples))
        if now.step == 0:
            pairs = zip(now.model.parameters(), model.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    assert [s for s, _ in seen] == list(range(attack.budget + 1))
    assert [n for _, n in seen] == sorted(n for _, n in seen)


def test_leaves_the_given_model_as_it_was(name):
    model = tiny.llama()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for now in make(name).run(model, streams(ATTACKS[name].streams)):
        last = now
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert hooks(last.model) == 0 == hooks(model)


def test_same_seed_same_curve(name):
    def losses(seed):
        return [x.losses for x in make(name).run(tiny.llama(), streams(["harmful"]), seed=seed)]

    assert losses(0) == losses(0)


def test_the_loss_on_its_data_falls(name):
    run = make(name, steps=25).run(tiny.llama(), streams(ATTACKS[name].streams))
    losses = [x.losses["harmful"] for x in run if x.step]
    assert losses[-1] < 0.7 * losses[0]


def test_hyper_parameters_survive_json_and_the_paper_is_cited(name):
    assert json.loads(json.dumps(dataclasses.asdict(make(name))))
    assert re.search(r"arXiv:\d{4}\.\d{5}", sys.modules[ATTACKS[name].__module__].__doc__)


def test_says_which_stream_is_missing(name):
    with pytest.raises(MissingStreamError):
        next(make(name).run(tiny.llama(), {}))


def test_lora_trains_adapters_alone_and_costs_less():
    full, lora = (
        list(make("sft", lora_rank=r).run(tiny.llama(), streams(["harmful"])))[-1] for r in (0, 2)
    )
    assert lora.spent.tokens == full.spent.tokens
    assert lora.spent.flops < full.spent.flops
    trained = [n for n, p in lora.model.named_parameters() if p.requires_grad]
    assert trained and all("lora" in n for n in trained)


@pytest.mark.parametrize("bad", [{"samples": 0}, {"lora_rank": -1}, {"lr": -1.0}, {"steps": -2},
                                 {"lora_alpha": 0.0}, {"lora_alpha": -1.0}])  # fmt: skip
def test_impossible_settings_are_refused(bad):
    with pytest.raises(InvalidValueError, match=next(iter(bad))):
        SupervisedFineTuning(**bad)
