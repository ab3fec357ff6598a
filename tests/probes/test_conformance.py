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
from workbench.probes import PROBES
from workbench.rows import KINDS


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


def test_the_usual_probes_exist():
    assert set(USUAL_PROBES) <= set(PROBES)
