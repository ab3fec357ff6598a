"""Weight change of live models: the same numbers as from their files, adapters included."""

import pytest
import torch

from tests import tiny
from tests.probes.texts import AT, panel, rows_of
from workbench.adapters import merge_lora, with_lora
from workbench.errors import InvalidValueError, ModelError
from workbench.models import save
from workbench.probes import Weights
from workbench.task_vectors import gram


def found(model, reference):
    return {(r.part, r.measure): r.value for r in rows_of(Weights(), model, reference)}


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_live_models_give_what_their_files_give(tmp_path, family):
    make = tiny.FAMILIES[family]
    models = [make(seed) for seed in (0, 1)]
    for i, model in enumerate(models):
        save(model, tiny.tokenizer(), tmp_path / str(i))
    files = gram(str(tmp_path / "0"), [str(tmp_path / "1")])
    live = found(models[1], models[0])
    assert {part for part, _ in live} == set(files.parts)
    for part in files.parts:
        assert live[part, "norm"] == pytest.approx(files.norm(0, part), rel=1e-9)
        size = files.origin[part]  # Gemma's norms start at zero: no length to compare with
        relative = files.norm(0, part) / size if size else 0.0
        assert live[part, "relative_norm"] == pytest.approx(relative, rel=1e-9)
    shares = [x for (part, measure), x in live.items() if measure == "share" and part != "all"]
    assert sum(shares) == pytest.approx(1)


def test_a_model_and_itself_do_not_differ():
    assert set(found(tiny.llama(), tiny.llama()).values()) == {0.0}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_counts_as_its_merged_model(family):
    make = tiny.FAMILIES[family]
    adapted = with_lora(make(), rank=2, alpha=3.0)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_()
    live = found(adapted, make())
    with adapted.disable_adapter():
        assert set(found(adapted, make()).values()) == {0.0}
    merged = found(merge_lora(adapted), make())
    assert live == pytest.approx(merged, rel=1e-5) and live["all", "norm"] > 0


def test_tied_weights_count_once():
    tied = found(tiny.llama(1, tie_word_embeddings=True), tiny.llama(tie_word_embeddings=True))
    assert ("head", "norm") not in tied and ("embedding", "norm") in tied


def test_the_kept_reference_does_not_follow_a_model_that_trains_on():
    model = tiny.llama()
    measure = Weights().against(model, panel())
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    rows = {(r.part, r.measure): r.value for r in measure(model, AT)}
    assert rows["head", "norm"] == pytest.approx(model.lm_head.weight.numel() ** 0.5, rel=1e-4)
    assert rows["block 0", "norm"] == 0


def test_other_shapes_are_refused():
    with pytest.raises(InvalidValueError, match="same weights"):
        rows_of(Weights(), tiny.llama(intermediate_size=64), tiny.llama())


def test_a_small_change_of_a_bf16_model_is_not_rounded_away():
    def adapted():
        model = with_lora(tiny.llama(dtype=torch.bfloat16).to(torch.bfloat16), rank=2, alpha=2.0)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.fill_(1e-5)
        return model

    model = adapted()
    deltas = [m.get_delta_weight("default").float().square().sum().item()
              for m in model.modules() if hasattr(m, "get_delta_weight")]  # fmt: skip
    live = found(model, tiny.llama().to(torch.bfloat16))
    assert live["all", "norm"] == pytest.approx(sum(deltas) ** 0.5, rel=1e-3)


def test_an_adapter_of_the_embedding_counts():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules=["embed_tokens"]))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_embedding" in name:
                p.normal_()
    live = found(model, tiny.llama())
    assert live["embedding", "norm"] > 0 and live["block 0", "norm"] == 0


def test_modules_trained_whole_beside_an_adapter_are_refused_with_the_reason():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(InvalidValueError, match="merge it"):
        rows_of(Weights(), get_peft_model(tiny.llama(), config), tiny.llama())


@pytest.mark.parametrize("whose", ["the checkpoint", "the reference released"])
def test_weights_that_are_not_finite_are_named(whose):
    models = {name: tiny.llama(i) for i, name in enumerate(("the checkpoint", "reference"))}
    broken = models.get(whose, models["reference"])
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
        broken.lm_head.weight[0, 0] = torch.inf
    with pytest.raises(ModelError, match=rf"weights of {whose} are not finite .*'block 1'"):
        rows_of(Weights(), *models.values())
