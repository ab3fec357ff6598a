"""What every probe promises, whatever it measures."""

import math
import re
import sys
from copy import deepcopy

import pytest
import torch

from tests import tiny
from tests.probes.texts import AT, panel, rows_of
from workbench import tables
from workbench.catalogue import USUAL_PROBES
from workbench.errors import InvalidValueError
from workbench.probes import PROBES, Butterfly, LatentNLL, ResidualKnowledgeProbe, StateProbe
from workbench.rows import KINDS

READERS = [name for name in PROBES if name != "weights"]
"""Probes that read text."""
BY_STATE = [name for name, kind in PROBES.items() if issubclass(kind, StateProbe | Butterfly)]
"""Probes that compare states of two checkpoints."""


@pytest.fixture(scope="module", params=list(tiny.FAMILIES))
def pair(request):
    make = tiny.FAMILIES[request.param]
    return make(seed=0).eval(), make(seed=1).eval()


@pytest.mark.parametrize("name", PROBES)
def test_rows_are_of_the_declared_kinds_and_say_where_they_were_measured(name, pair):
    rows = rows_of(PROBES[name](), *pair)
    assert rows and {type(r) for r in rows} <= set(PROBES[name].writes)
    assert {(r.stage, r.step) for r in rows} == {("attack", 3)}
    assert {r.reference for r in rows if hasattr(r, "reference")} <= {AT.reference}
    for kind in {type(r) for r in rows}:
        assert KINDS[kind.kind] is kind
        tables.table([r for r in rows if type(r) is kind])  # accepts them
    numbers = [x for r in rows for x in getattr(r, "values", [getattr(r, "value", 0.0)])]
    assert all(math.isfinite(x) for x in numbers)


@pytest.mark.parametrize("name", PROBES)
def test_models_and_random_numbers_are_left_as_they_were(name):
    model, reference = tiny.llama(seed=0).train(), tiny.llama(seed=1).eval()
    before = deepcopy(model.state_dict())
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    rows_of(PROBES[name](), model, reference)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training and not reference.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", PROBES)
def test_the_same_twice_and_whichever_side_is_padded(name, pair):
    def key(row):
        return repr({k: v for k, v in vars(row).items() if not isinstance(v, float | list)})

    first = rows_of(PROBES[name](), *pair)
    again = rows_of(PROBES[name](), *pair)
    assert first == again
    left = {key(r): r for r in rows_of(PROBES[name](), *pair, panel("left"))}
    for row in first:
        twin = left[key(row)]
        for column, value in vars(row).items():
            if isinstance(value, float | list):
                assert getattr(twin, column) == pytest.approx(value, rel=1e-3, abs=5e-4), column


@pytest.mark.parametrize("name", PROBES)
def test_the_source_is_cited_and_the_class_documented(name):
    kind = PROBES[name]
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|et al\.|\d{4}\)", sys.modules[kind.__module__].__doc__)
    assert kind.__doc__ and kind.writes and kind.against.__doc__


@pytest.mark.parametrize("make", [
    lambda seed: tiny.llama(seed, max_position_embeddings=12),
    lambda seed: tiny.gpt2(seed, n_positions=12),
], ids=["llama", "gpt2"])  # fmt: skip
@pytest.mark.parametrize("name", READERS)
def test_texts_beyond_the_context_are_refused(name, make):
    with pytest.raises(InvalidValueError, match=r"context|max_new_tokens"):
        rows_of(PROBES[name](), make(0), make(1))


@pytest.mark.parametrize("probe", [
    Butterfly(), LatentNLL(towards="harmful"), ResidualKnowledgeProbe(ways=("relearned",)),
], ids=["amplification", "latent-nll", "residual-knowledge"])  # fmt: skip
def test_answers_beyond_the_context_are_refused_where_prompts_fit(probe):
    small = tiny.llama(0, max_position_embeddings=36)  # prompts have 20 tokens, with answers 45
    with pytest.raises(InvalidValueError, match="do not fit in the model's context of 36"):
        rows_of(probe, small, None)


@pytest.mark.parametrize(("config", "sizes"), [
    ({"hidden_size": 64, "head_dim": 16}, r"\d layers of width 64, the reference at \d .*width 32"),
    ({"num_hidden_layers": 3}, r"[34] layers of width 32, the reference at [23] layers"),
], ids=["width", "depth"])  # fmt: skip
@pytest.mark.parametrize("name", BY_STATE)
def test_models_of_another_size_are_refused(name, config, sizes):
    with pytest.raises(InvalidValueError, match=sizes):
        rows_of(PROBES[name](), tiny.llama(0, **config), tiny.llama(1))


def test_the_usual_probes_exist():
    assert set(USUAL_PROBES) <= set(PROBES)
