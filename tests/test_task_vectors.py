"""Task vectors: angles and norms from files equal those of the models in memory."""

import math

import pytest
import torch

from tests import tiny
from workbench.adapters import merge_lora, with_lora
from workbench.errors import InvalidValueError, ModelError, UnknownNameError
from workbench.models import save
from workbench.task_vectors import WHOLE, gram, part_of


def flat(model):
    return torch.cat([p.detach().double().flatten() for _, p in sorted(model.named_parameters())])


def kept(model, path):
    save(model, tiny.tokenizer(), path)
    return str(path)


@pytest.fixture(params=list(tiny.FAMILIES))
def three(request, tmp_path):
    make = tiny.FAMILIES[request.param]
    models = [make(seed) for seed in range(3)]
    return models, [kept(m, tmp_path / str(i)) for i, m in enumerate(models)]


def test_norms_and_angles_equal_those_of_the_flattened_models(three):
    models, paths = three
    found = gram(paths[0], paths[1:])
    one, two = (flat(m) - flat(models[0]) for m in models[1:])
    assert found.norm(0) == pytest.approx(one.norm().item(), rel=1e-12)
    cosine = torch.cosine_similarity(one, two, dim=0).item()
    assert found.angle(0, 1) == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-9)
    assert found.kept(0, 1) == pytest.approx((one @ two / (one @ one)).item(), rel=1e-9)
    assert found.origin[WHOLE] == pytest.approx(flat(models[0]).norm().item(), rel=1e-12)
    assert found.sizes[WHOLE] == len(one)


def test_parts_add_up_and_the_matrix_is_positive(three):
    _, paths = three
    found = gram(paths[0], paths[1:])
    parts = [g for part, g in found.parts.items() if part != WHOLE]
    assert torch.allclose(sum(parts), found.parts[WHOLE], rtol=1e-12)
    assert list(found.parts) == ["embedding", "block 0", "block 1", "final norm", "head", WHOLE]
    assert torch.linalg.eigvalsh(found.parts[WHOLE]).min() >= -1e-9


def test_a_vector_is_at_0_to_itself_and_at_180_to_its_opposite(tmp_path):
    base, there, back = tiny.llama(), tiny.llama(), tiny.llama()
    with torch.no_grad():
        for p, q in zip(there.parameters(), back.parameters(), strict=True):
            step = torch.full_like(p, 0.5)  # exact in fp32 beside weights of this size
            p.mul_(0).add_(step)
            q.mul_(0).sub_(step)
        for p in base.parameters():
            p.zero_()
    paths = [kept(m, tmp_path / n) for n, m in (("b", base), ("t", there), ("k", back))]
    found = gram(paths[0], [paths[1], paths[2], paths[0]])
    assert found.angle(0, 0) == 0 and found.angle(0, 1) == pytest.approx(180)
    assert found.angle(0, 2) is None and found.kept(2, 0) is None and found.norm(2) == 0
    assert found.kept(0, 1) == pytest.approx(-1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_its_merged_model(tmp_path, family):
    make = tiny.FAMILIES[family]
    base = kept(make(), tmp_path / "base")
    adapted = with_lora(make(), rank=3, alpha=5.0)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_()
    adapted.peft_config["default"].base_model_name_or_path = base
    adapter = kept(adapted, tmp_path / "adapter")
    merged = kept(merge_lora(adapted), tmp_path / "merged")
    found = gram(base, [adapter, merged])
    assert found.norm(0) == pytest.approx(found.norm(1), rel=1e-6) and found.norm(0) > 0
    assert found.angle(0, 1) == pytest.approx(0, abs=0.05)


def test_random_directions_are_nearly_orthogonal_within_the_stated_band(tmp_path):
    models = [tiny.llama(seed) for seed in range(3)]
    with torch.no_grad():
        for p in models[0].parameters():
            p.zero_()
        for seed, model in enumerate(models[1:]):
            for p in model.parameters():
                p.normal_(generator=torch.Generator().manual_seed(seed + p.numel()))
    paths = [kept(m, tmp_path / str(i)) for i, m in enumerate(models)]
    found = gram(paths[0], paths[1:])
    assert abs(found.angle(0, 1) - 90) < 2 * found.by_chance()


def test_what_cannot_be_subtracted_is_refused(tmp_path):
    small, wide = tiny.llama(), tiny.llama(intermediate_size=64)
    one, two = kept(small, tmp_path / "one"), kept(wide, tmp_path / "two")
    with pytest.raises(InvalidValueError, match=r"do not have the same weights.*down_proj"):
        gram(one, [two])
    with pytest.raises(UnknownNameError):
        gram(one, [str(tmp_path / "nowhere")])
    (tmp_path / "one" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be read"):
        gram(one, [two])


def test_parts_by_name():
    assert part_of("transformer.wte.weight") == "embedding"
    assert part_of("transformer.h.11.ln_1.weight") == "block 11"
    assert part_of("transformer.ln_f.bias") == part_of("model.norm.weight") == "final norm"
    assert part_of("embed_out.weight") == "head"


@pytest.mark.parametrize("which", [0, 2])
def test_weights_that_are_not_finite_are_named(tmp_path, which):
    models = [tiny.llama(seed) for seed in range(3)]
    with torch.no_grad():
        models[which].model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    paths = [kept(model, tmp_path / str(i)) for i, model in enumerate(models)]
    with pytest.raises(ModelError, match=rf"{paths[which]} are not finite .*'block 1'"):
        gram(paths[0], paths[1:])
