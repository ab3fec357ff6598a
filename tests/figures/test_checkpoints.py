"""Released models are those at the end of their defence, however often it was looked at."""

from dataclasses import replace

import pandas as pd
import pytest

from tests.figures import invented
from tests.figures.stores import header, kl, write
from workbench.figures import FIGURES, load
from workbench.rows import KINDS, EmbeddingDrift
from workbench.store import Store

ALL = tuple(KINDS.values())
RELEASED = [
    name
    for name, each in FIGURES.items()
    if "checkpoint" in each.params.__dataclass_fields__ and name != "drift_map"  # plays all steps
]


def drift(stage, step, reference, height):
    """Drift that grows with depth."""
    return [
        EmbeddingDrift(stage=stage, step=step, reference=reference, example=f"{group}-{i}",
                       group=group, site="resid_post", positions="last_prompt",
                       measure="relative_l2", values=[height * share, 2 * height * share])
        for group, share in (("hazard", 1.0), ("benign", 0.25)) for i in range(3)
    ]  # fmt: skip


def measured(step, seed):
    """What probes say of a defence at a step."""
    return [
        *invented.rows("defence", step, seed, "vaccine"),
        *kl("defence", step, "base", seed),
        *drift("defence", step, "base", 0.01 * step),
    ]


@pytest.fixture(scope="module")
def often(tmp_path_factory):
    """A defence that was looked at once, when it was released, and one that was recorded."""
    found = []
    for steps in ((20,), (0, 10, 20)):
        made = Store(tmp_path_factory.mktemp("store"))
        for seed in (0, 1):
            run = header(f"v{seed}", "immunise", "vaccine", seed, {"name": "vaccine"})
            write(made, run, [row for step in steps for row in measured(step, seed)], ALL)
        found.append(load(made, None, ALL))
    return found


@pytest.mark.parametrize("name", [*RELEASED, "rl_bound"])
def test_of_a_recorded_defence_the_last_step_is_drawn(often, name):
    each = FIGURES[name]
    params = each.given({"checkpoint": "released"} if name in RELEASED else None)
    once, recorded = (each.data(frames, params) for frames in often)
    assert len(once) and each.caption(recorded, params) == each.caption(once, params)
    pd.testing.assert_frame_equal(recorded, once)


DRIFT = FIGURES["drift_by_layer"]


@pytest.fixture
def two(tmp_path):
    """Two checkpoints that `workbench probe drift` compared."""
    made = Store(tmp_path)
    settings = {"sites": ["resid_post"], "positions": "last_prompt"}
    probe = {"name": "drift", "reference": "lab:base", "probes": {"drift": settings}}
    run = header("look", "immunise", "lab-aligned", 0, None, probe=probe)
    write(made, run, drift("defence", 0, "lab:base", 0.4), (EmbeddingDrift,))
    return made, run


def test_drift_of_two_checkpoints_is_drawn_by_layer(two):
    frames = load(two[0], None, DRIFT.needs)
    table = DRIFT.data(frames, DRIFT.given(None))
    assert table["drift"].tolist() == pytest.approx([0.1, 0.2, 0.4, 0.8])  # benign first
    drawn = DRIFT.draw(frames)
    assert [trace.type for trace in drawn.data] == ["scatter"] * 2
    assert drawn.layout.xaxis.title.text == "layer"
    assert drawn.layout.meta["caption"].endswith("released models against lab:base")
    assert DRIFT.options(frames)["positions"] == ["last_prompt"]
    told = DRIFT.missing(frames, {"checkpoint": "attacked"})
    assert told is not None and "no site" not in told.what


def test_drift_under_attack_goes_first_and_either_can_be_asked_for(two):
    made, run = two
    for step in (0, 8):
        attack = replace(run, id=f"a{step}", kind="attack", attack={"name": "sft"}, probe=None)
        rows = drift("attack", step, "released", 0.1 * step)
        write(made, replace(attack, seed=step), rows, (EmbeddingDrift,))
    frames = load(made, None, DRIFT.needs)
    drawn = DRIFT.draw(frames)
    assert {trace.type for trace in drawn.data} == {"heatmap"}
    assert "attacked models against released" in drawn.layout.meta["caption"]
    assert DRIFT.draw(frames, {"checkpoint": "attacked"}).data == drawn.data
    table = DRIFT.data(frames, DRIFT.given({"checkpoint": "released"}))
    assert set(table["reference"]) == {"lab:base"}
