"""The drift map as a probe: a point a prompt, honest numbers beside them."""

import numpy as np
import pytest
import torch

from tests import tiny
from tests.probes.texts import panel, rows_of
from workbench.errors import InvalidValueError, ModelError
from workbench.probes import Drift, DriftMapProbe
from workbench.rows import DriftMapPoint, MapQuality

PCA = DriftMapProbe(method="pca")


def split(rows):
    points = [r for r in rows if isinstance(r, DriftMapPoint)]
    return points, {r.measure: r for r in rows if isinstance(r, MapQuality)}


@pytest.mark.parametrize("probe", [DriftMapProbe(), PCA], ids=lambda p: p.method)
def test_a_model_against_itself_has_not_moved(probe):
    points, numbers = split(rows_of(probe, tiny.llama(), tiny.llama()))
    assert len(points) == 12 and {p.layer for p in points} == {1}
    assert all((p.x, p.y) == (p.x_then, p.y_then) for p in points)
    assert numbers["drift"].value == numbers["relative_drift"].value == 0
    assert "arrow_rank" not in numbers
    assert 0 <= numbers["trustworthiness"].value <= 1 and numbers["knn_kept"].n == 12
    assert numbers["perplexity"].value == pytest.approx(11 / 3 if probe.method == "tsne" else 0)


def test_points_of_pca_are_projections_of_the_states_that_were_read():
    now, then = tiny.qwen3(1), tiny.qwen3(0)
    probe = DriftMapProbe(method="pca", layer=0, positions="mean_response")
    points, numbers = split(rows_of(probe, now, then))
    read = [probe._read(m, panel()) for m in (now, then)]
    a, b = (np.concatenate([s[g, "resid_post"].values[0].double().numpy()
                            for g in ("hazard", "benign")]) for s in read)  # fmt: skip
    _, _, v = np.linalg.svd(b - b.mean(0))
    for k, name in enumerate("xy"):
        for states, column in ((a, name), (b, f"{name}_then")):
            expected = (states - b.mean(0)) @ v[k]
            found = np.array([getattr(p, column) for p in points])
            assert np.abs(found) == pytest.approx(np.abs(expected), rel=1e-4, abs=1e-5)
    lengths = [np.linalg.norm(p - q) for p, q in zip(a, b, strict=True)]
    assert numbers["drift"].value == pytest.approx(np.mean(lengths), rel=1e-5)
    relative = np.mean(lengths) / np.mean([np.linalg.norm(q) for q in b])
    assert numbers["relative_drift"].value == pytest.approx(relative, rel=1e-5)


def test_every_site_has_a_map_of_its_own():
    probe = DriftMapProbe(method="pca", sites=("resid_post", "attn_module_out"))
    points, _ = split(rows_of(probe, tiny.llama(1), tiny.llama(0)))
    assert {p.site for p in points} == {"resid_post", "attn_module_out"} and len(points) == 24


@pytest.mark.parametrize("layer", [2, -3, 99])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(InvalidValueError, match=f"no layer {layer}.*2 layers, 0 to 1"):
        rows_of(DriftMapProbe(layer=layer), tiny.llama(), tiny.llama())


def test_a_perplexity_that_needs_more_points_is_refused():
    with pytest.raises(InvalidValueError, match="perplexity 30 does not go with 12 points"):
        rows_of(DriftMapProbe(perplexity=30.0), tiny.llama(), tiny.llama())


def test_states_that_are_not_finite_are_refused():
    broken = tiny.llama()
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        rows_of(PCA, broken, tiny.llama())
    with pytest.raises(ModelError, match="not finite"):
        rows_of(PCA, tiny.llama(), broken)


def test_a_model_whose_states_are_all_the_same_has_no_map():
    flat = tiny.llama()
    with torch.no_grad():
        flat.model.embed_tokens.weight.zero_()
    with pytest.raises(InvalidValueError, match="all of them the same"):
        rows_of(DriftMapProbe(), tiny.llama(), flat)


def test_padding_changes_no_bit_since_t_sne_would_magnify_it():
    rows = [
        rows_of(DriftMapProbe(), tiny.qwen3(1), tiny.qwen3(0), panel(side))
        for side in ("right", "left")
    ]
    assert rows[0] == rows[1]


def test_states_read_one_by_one_are_those_of_the_batch():
    probe, model = DriftMapProbe(positions="response"), tiny.llama()
    alone = probe._read(model, panel())
    together = Drift(sites=probe.sites, positions="response")._read(model, panel())
    assert alone.keys() == together.keys()
    for key, states in alone.items():
        states.require_like(together[key])
        assert torch.allclose(states.values, together[key].values, atol=1e-4)
