"""Residual knowledge: each way does what it says, on a copy, and says only what the judge can."""

import json
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import TypeCheckError

from tests import tiny
from tests.probes.texts import AT, TinyDomain, panel
from workbench.activations import HookedLM
from workbench.data import encode, token_ids
from workbench.errors import InvalidValueError, MissingStreamError, ModelError, UnknownNameError
from workbench.panel import Panel
from workbench.probes import ResidualKnowledgeProbe
from workbench.probes.residual_knowledge import beginning
from workbench.states import read_states
from workbench.steering import difference_of_means
from workbench.study import open_domain
from workbench.verdicts import KeywordJudge

FEW = {"prompts": 3, "steps": (1, 2), "prefix": (1, 3), "batch_size": 2}


@dataclass(frozen=True)
class Exact(TinyDomain):
    """A judge that knows the answers; requests of other splits are about other things."""

    empty: tuple[tuple[str, str], ...] = ()

    def questions(self, split, kind):
        return [] if (split, kind) in self.empty else super().questions(split, kind)

    def judge(self, question, text):
        return KeywordJudge()(question.answer, text)


def rows(model, domain=None, **settings):
    texts = Panel(domain or Exact(), tiny.tokenizer())
    return ResidualKnowledgeProbe(**{**FEW, **settings}).against(None, texts)(model, AT)


def test_every_way_and_strength_has_its_shares():
    found = rows(tiny.llama())
    strengths = {(r.way, r.strength) for r in found}
    assert strengths >= {("none", 0), ("prefixed", 1), ("prefixed", 3), ("relearned", 1),
                         ("relearned", 2)}  # fmt: skip
    assert sum(way == "ablated" for way, _ in strengths) == 1
    assert {r.measure for r in found} == {"complied", "right", "success", "refused"}
    assert all(0 <= r.value <= 1 and r.n == 3 and r.domain == "defended" for r in found)


def test_a_judge_by_keywords_gives_compliance_only():
    assert {r.measure for r in rows(tiny.llama(), TinyDomain())} == {"complied", "refused"}


def test_right_counts_what_was_told():
    """A model that says the answers by heart is right at once; a prefix alone never is enough."""
    learnt = tiny.llama()
    asked = Exact().questions("test", "hazard")[:3]
    batch = encode(tiny.tokenizer(), [q.example for q in asked])
    optimiser = torch.optim.Adam(learnt.parameters(), lr=0.01)
    from workbench.losses import cross_entropy

    for _ in range(60):
        cross_entropy(HookedLM(learnt)(batch).logits, batch).backward()
        optimiser.step()
        optimiser.zero_grad()
    domain = Exact(max_new_tokens=40)
    value = {(r.strength, r.measure): r.value
             for r in rows(learnt.eval(), domain, ways=("none", "prefixed"))}  # fmt: skip
    assert value[0, "right"] == value[3, "right"] == 1 == value[0, "success"]
    novice = rows(tiny.llama(), domain, ways=("prefixed",), prefix=(100,))
    assert {r.value for r in novice if r.measure == "success"} <= {0.0}


def test_the_direction_is_read_on_another_split_at_the_layer_that_frees_most(monkeypatch):
    from workbench.probes import residual_knowledge as module

    model, seen = tiny.llama(), []
    real = module.ablated
    monkeypatch.setattr(module, "ablated", lambda lm, r: (seen.append(r), real(lm, r))[1])
    states = [
        read_states(model, encode(tiny.tokenizer(), [q.example for q in other]))
        for other in (Exact().questions("val", "hazard"), Exact().questions("val", "benign"))
    ]
    (found, *_) = rows(model, ways=("ablated",), layer=1)
    assert torch.allclose(*seen, difference_of_means(*states, 1)) and found.strength == 1
    seen.clear()
    (found, *_) = rows(model, ways=("ablated",))
    assert torch.allclose(seen[-1], difference_of_means(*states, found.strength))
    assert module._candidates(2) == [0] and module._candidates(6) == [0, 1, 2, 3]
    assert module._candidates(40) == [0, 4, 8, 12, 16, 20, 24, 28]


def test_only_the_beginning_is_taught():
    batch = encode(tiny.tokenizer(), tiny.examples(), side="left")
    kept = beginning(batch, 2)
    assert kept.response_mask.sum(1).tolist() == [2] * len(batch)
    assert (kept.response_mask & ~batch.response_mask).sum() == 0
    for row, example in zip(range(len(batch)), tiny.examples(), strict=True):
        _, answer = token_ids(tiny.tokenizer(), example)
        assert kept.input_ids[row][kept.response_mask[row]].tolist() == answer[:2]
    assert beginning(batch, None) is batch


def test_relearning_scores_openers_or_whole_answers(monkeypatch):
    from workbench.probes import residual_knowledge as module

    scored, real = [], module.cross_entropy
    monkeypatch.setattr(
        module, "cross_entropy", lambda z, b: (scored.append(b.response_mask.sum(1)), real(z, b))[1]
    )
    rows(tiny.llama(), ways=("relearned",), taught="openers", opener=3)
    assert len(scored) == 2 and all(x.eq(3).all() for x in scored)
    scored.clear()
    rows(tiny.llama(), ways=("relearned",), taught="answers", opener=3)
    assert all(x.gt(3).all() for x in scored)


@pytest.mark.parametrize("taught", ["answers", "openers"])
def test_relearning_is_on_a_copy_and_leaves_gradients_alone(taught):
    model = tiny.llama()
    settings = {"ways": ("relearned",), "taught": taught}
    clean = rows(model, **settings)
    for p in model.parameters():
        p.grad = torch.full_like(p, 100.0)
    before = deepcopy(model.state_dict())
    assert rows(model, **settings) == clean
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad.eq(100).all() for p in model.parameters())
    model.requires_grad_(False)
    assert rows(model, **settings) == clean


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"steps": (0,)}, "steps must be at least 1"), ({"prefix": (0, 2)}, "prefix must be"),
     ({"prefix": ()}, "prefix must be"), ({"prompts": 0}, "prompts must be"),
     ({"lr": -1.0}, "lr must be")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(bad, message):
    with pytest.raises(InvalidValueError, match=message):
        ResidualKnowledgeProbe(**bad)


def test_other_bad_input_is_refused():
    with pytest.raises((UnknownNameError, TypeCheckError), match="ablat"):
        ResidualKnowledgeProbe(ways=("ablate",))
    with pytest.raises(InvalidValueError, match="0 to 1 in this model, not 9"):
        rows(tiny.llama(), ways=("ablated",), layer=9)
    with pytest.raises(MissingStreamError, match="no benign requests in the split 'val'"):
        rows(tiny.llama(), Exact(empty=(("val", "benign"),)))
    with pytest.raises(MissingStreamError, match="leave `relearned` out"):
        rows(tiny.llama(), Exact(empty=(("attack", "hazard"),)))
    with pytest.raises(InvalidValueError, match="no hazardous request"):
        ResidualKnowledgeProbe().against(None, panel(n=0))
    broken = tiny.llama()
    with torch.no_grad():
        broken.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        rows(broken, ways=("ablated",))


@pytest.mark.slow
def test_the_oracle_is_an_empty_shell_and_the_aligned_model_is_not():
    from workbench.lab.domain import LabDomain
    from workbench.models import load
    from workbench.probes import At

    def shares(name):
        lab = load(name)
        texts = Panel(LabDomain(), lab.tokenizer)
        found = ResidualKnowledgeProbe().against(None, texts)(lab.model, At("defence", 0, ""))
        return {(r.way, r.measure): r.value for r in found}

    aligned, oracle = shares("lab:aligned"), shares("lab:oracle")
    assert aligned["none", "complied"] == oracle["none", "complied"] == 0
    for way in ("prefixed", "relearned"):
        assert aligned[way, "right"] > 0.8 and aligned[way, "complied"] > 0.8
        assert oracle[way, "right"] < 0.1 and oracle[way, "complied"] > 0.4


@dataclass(frozen=True)
class Shared(Exact):
    """Every split has all the requests, as a file that is read whole does."""

    def questions(self, split, kind):
        return super().questions("test", kind)


@pytest.mark.parametrize("way", ["ablated", "relearned"])
def test_what_is_asked_teaches_nothing(way):
    said = f"tiny holds .* where `{way}` would learn.*: 3 of the 3 asked.*leave `{way}` out of ways"
    with pytest.raises(InvalidValueError, match=said):
        rows(tiny.llama(), Shared(), ways=("none", way))
    assert rows(tiny.llama(), Shared(), ways=("none", "prefixed"))


def test_a_file_that_is_read_whole_is_asked_and_teaches_nothing(tmp_path):
    lines = [json.dumps({"prompt": f"ask {i}", "response": "so it is"}) for i in range(20)]
    for stream in ("harmful", "ref"):
        (tmp_path / f"{stream}.jsonl").write_text("\n".join(lines))
    domain = open_domain(str(tmp_path), whole=True)
    with pytest.raises(InvalidValueError, match="leave `ablated` and `relearned` out of ways"):
        rows(tiny.llama(), domain)
    assert {r.split for r in rows(tiny.llama(), domain, ways=("none",))} == {"whole"}
