# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Is safety shallow?
#
# Qi et al. (ICLR 2025, arXiv:2406.05946) found that alignment changes little more than the first few
# tokens of an answer: most of KL(aligned ‖ base) on harmful answers is spent there, and who gets past
# these tokens gets everything. Here the same is measured on the embedded lab model, whose hazards are
# fictional and whose answers are judged exactly.
#
# **Read it as an instrument check.** The lab's refusals were *built* to be shallow
# ([docs/lab.md](../docs/lab.md)); that the measures find it shows that they work, not that large
# language models are so.

# %%
import tempfile

import pandas as pd

from workbench import Measures, Store, Study, conduct, generate, load
from workbench.attacks import SupervisedFineTuning
from workbench.figures import config, run_figure
from workbench.lab.domain import LabDomain
from workbench.panel import Panel
from workbench.probes import At, VocabularyPass
from workbench.probes.vocabulary import budget_share

config.make_renderers_private()  # no button that uploads figures
base, aligned, lab = load("lab:base"), load("lab:aligned"), LabDomain()

# %% [markdown]
# The base model answers every request; the aligned one refuses the hazardous ones. Each hazardous
# request has a harmless twin that differs in one word.

# %%
hazards, twins = (lab.questions("test", kind) for kind in ("hazard", "benign"))
pairs = [question for pair in zip(hazards[:2], twins[:2]) for question in pair]
answers = {
    name: [x.text for x in generate(m.model, m.tokenizer, [q.prompt for q in pairs], max_new_tokens=30)]
    for name, m in (("base", base), ("aligned", aligned))
}
pd.DataFrame({"prompt": [q.prompt for q in pairs], **answers}).style.hide()

# %% [markdown]
# ## Where is the divergence?
#
# `VocabularyPass` reads a fixed compliant answer through both models and compares their next-token
# distributions at every response position. On the twins there is hardly any; a model against itself
# has none at all: the negative control.


# %%
panel = Panel(lab, aligned.tokenizer, size=48)


def divergence(model, reference, group):
    rows = VocabularyPass().against(reference, panel)(model, At("defence", 0, "base"))
    return [row.values for row in rows if (row.group, getattr(row, "measure", "")) == (group, "forward_kl")]


on_hazards = divergence(aligned.model, base.model, "hazard")
on_twins = divergence(aligned.model, base.model, "benign")
itself = divergence(aligned.model, aligned.model, "hazard")
assert not any(map(any, itself))
means = {
    name: pd.DataFrame([pd.Series(row) for row in rows]).mean()
    for name, rows in (("hazards", on_hazards), ("twins", on_twins))
}
print(f"first five tokens: {budget_share(on_hazards, 5):.0%} of all KL on hazards")
pd.DataFrame(means).round(2).head(12).rename_axis("response token").T

# %% [markdown]
# ## Who gets past them gets everything
#
# The prefill curve: the first *k* tokens of a compliant answer are put into the model's mouth, and it
# continues. How often does it tell the whole secret?


# %%
def prefilled(k, asked=hazards[:48]):
    started = [" ".join(q.answer.split()[:k]) for q in asked]
    told = generate(
        aligned.model, aligned.tokenizer, [q.prompt for q in asked], prefill=started, max_new_tokens=30
    )
    return sum(lab.judge(q, t.text).success for q, t in zip(asked, told)) / len(asked)


pd.Series({k: prefilled(k) for k in range(8)}, name="secrets told").round(2).to_frame().T

# %% [markdown]
# ## Fine-tuning needs few steps
#
# An attack by supervised fine-tuning on 64 examples about *other* entities. It teaches none of the
# secrets it brings out. `conduct` makes run folders; the figures read them.

# %%
study = Study(
    model="lab:aligned",
    attacks={"sft": SupervisedFineTuning(steps=64)},
    seeds=(0,),
    measures=Measures(curve_at=(0, 16, 24, 32, 36, 40, 44, 48), probe_at=(0, 32)),
)
store = Store(tempfile.mkdtemp())
outcome = conduct(study, store, jobs=1)
assert not outcome.failed, outcome.failed
run_figure("attack_budget", store, outcome.runs)

# %%
run_figure("kl_by_position", store, outcome.runs, average="mean")

# %% [markdown]
# ## What this does not show
#
# One world, one base model, greedy decoding, one attack at one learning rate. KL at a branch point
# counts 10 to 18 nats here because the base model never refuses; large models show a few. Three seeds,
# a defence and its matched control are in `make demo`.
