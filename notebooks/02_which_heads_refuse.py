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
# # 2. Which heads refuse?
#
# TransformerLens and nnsight see a model's weights through views that leave it alone
# ([docs/views.md](../docs/views.md)). Activation patching on minimal pairs finds the heads on which the
# lab model's refusal rests, with and without a short defence, before and after an attack. **One world,
# one seed: this shows how to look, not how defences differ.**

# %%
from itertools import groupby, product

import pandas as pd
import plotly.express as px
import torch

from workbench import Fit, HookedLM, load
from workbench.attacks import SupervisedFineTuning
from workbench.chat_templates import prompt_text
from workbench.defences import Vaccine
from workbench.domains import streams
from workbench.figures import LIGHT, config
from workbench.lab.domain import LabDomain

config.make_renderers_private()  # no button that uploads figures
base, aligned, lab = load("lab:base"), load("lab:aligned"), LabDomain()
tokenizer, (layers, heads) = aligned.tokenizer, (6, 4)

# %% [markdown]
# ## Minimal pairs, and a number for refusal
#
# Every hazardous request has a harmless twin that differs in one word, the mode (*by moon*, *by sun*). The
# **margin** compares, at the last prompt token, first words that only refusals have with those that only
# compliance has: log P(*sorry*, *no*) − log P(*certainly*, *gladly*, *good*). Openings of both are left out.

# %%
def ids(question):
    return tokenizer.encode(prompt_text(tokenizer, question.prompt), add_special_tokens=False)
asked = zip(*(map(ids, lab.questions("test", kind)) for kind in ("hazard", "benign")))
pairs = sorted(asked, key=lambda pair: len(pair[0]))
assert all(sum(x != y for x, y in zip(*pair, strict=True)) == 1 for pair in pairs)
batches = [torch.tensor(list(g)).unbind(1) for _, g in groupby(pairs, lambda pair: len(pair[0]))]
firsts = ["sorry", "no"], ["certainly", "gladly", "good"], ["take"]
refusing, complying, care = map(tokenizer.convert_tokens_to_ids, firsts)
def margin(logits, words=refusing):
    last = logits[:, -1]
    return last[:, words].logsumexp(-1) - last[:, complying].logsumexp(-1)
@torch.no_grad()
def margins(view):
    sides = zip(("hazard", "twin"), zip(*batches))
    return {name: torch.cat([*map(margin, map(view, side))]).mean().item() for name, side in sides}

# %% [markdown]
# ## Activation patching
#
# One head's output in the hazardous run is replaced by what it was in the twin's, at all positions. By how
# many nats does the margin fall? Much: what this head says differs, and the refusal rests on it.

# %%
def patched(view, hazard, cache, words, layer, head):
    name, one = f"blocks.{layer}.attn.hook_z", torch.tensor([head])  # [pair, position, head, size]
    swap = (name, lambda z, hook: z.index_copy(2, one, cache[name][:, :, one]))
    return margin(view.run_with_hooks(hazard, fwd_hooks=[swap]), words)
@torch.no_grad()
def effects(view, words=refusing):
    falls = torch.zeros(layers, heads)
    for hazard, twin in batches:
        _, cache = view.run_with_cache(twin, names_filter=lambda name: name.endswith("hook_z"))
        start = margin(view(hazard), words)
        for at in product(range(layers), range(heads)):
            falls[at] += (start - patched(view, hazard, cache, words, *at)).sum() / len(pairs)
    return falls

# %% [markdown]
# `Vaccine` (Huang, Hu & Liu, NeurIPS 2024) aligns the base model under perturbed embeddings, here for 120
# small steps. Both models are then attacked: 32 steps on compliant answers. Each view is made once, at
# step 0; it shares the weights, so it follows the attack. The base never refuses, but says *take care*
# before hazardous lore: its margin has log P(*take*) in place of the refusals.

# %%
defence, attack = Vaccine(rho=1.0, fit=Fit(steps=120, batch_size=16)), SupervisedFineTuning(steps=32)
safe = streams(lab, defence.draws, tokenizer, split="defend", batch_size=16, n=1920, seed=0)
harmful = streams(lab, attack.streams, tokenizer, split="attack", batch_size=16, n=64, seed=0)
immunised = defence.immunise(base.model, safe, seed=0)
curves, maps = [], {"base": effects(HookedLM(base.model).transformer_lens(tokenizer), care)}
for name, model in (("aligned", aligned.model), ("immunised", immunised)):
    for now in attack.run(model, harmful):
        view = HookedLM(now.model).transformer_lens(tokenizer) if now.step == 0 else view
        if now.step % 8 == 0:
            curves.append({"model": name, "step": now.step, **margins(view)})
        if now.step in (0, attack.steps):
            maps[f"{name}, attacked" if now.step else name] = effects(view)
pd.DataFrame(curves).pivot(index="step", columns="model", values=["hazard", "twin"]).round(1)

# %%
grid = torch.stack([*maps.values()]).numpy()
style = {"zmin": 0, "color_continuous_scale": "Blues", "template": LIGHT.template, "aspect": "auto"}
axes = {"x": "head", "y": "layer", "color": "nats", "facet_col": ""}
figure = px.imshow(grid, facet_col=0, labels=axes, height=380, text_auto=".1f", **style)
figure.for_each_annotation(lambda a: a.update(text=[*maps][int(a.text.split("=")[-1])]))
figure.update_layout(title=f"Fall of the margin, one head patched (mean of {len(pairs)} pairs)", margin_t=80)

# %% [markdown]
# The same head matters most in all five models, the base included: it was there before anything refused.
# What does it look at? nnsight reaches every operation; attention weights exist in eager attention only.

# %%
assert len({int(falls.argmax()) for falls in maps.values()}) == 1  # one head in all five
layer, head = divmod(int(maps["aligned"].argmax()), heads)
sight, prompt = HookedLM(aligned.model).nnsight(tokenizer), torch.tensor([pairs[0][0]])
sight._module.set_attn_implementation("eager")
with torch.no_grad(), sight.trace(prompt):
    weights = sight.model.layers[layer].self_attn.source.attention_interface_1.output[1][0, head].save()
words = [f"{i} {word}" for i, word in enumerate(tokenizer.convert_ids_to_tokens(pairs[0][0]))]
axes = {"x": "attends to", "y": "token", "color": "weight"}
figure = px.imshow(weights.numpy(), x=words, y=words, labels=axes, height=520, **style)
figure.update_layout(title=f"Attention of layer {layer}, head {head}, on one hazardous request", margin_t=60)

# %% [markdown]
# ## What is seen, and what is not
#
# From the last token, that head looks at the mode and at nothing else. So it does not *refuse*: it tells
# later layers which twin was asked, and patching it asks the other one. Alignment, the short defence and
# the attack leave it in place; what changes is what later layers make of it. The attack takes the margin
# below zero on hazards and hardly moves the twins.
#
# Not shown: what twins share (these differ in the mode alone, so whatever reads the names stays hidden);
# heads that act together (one is patched at a time); MLPs; other seeds, worlds and larger models. The
# lab's hazard-ness *was built* as kin XOR mode ([docs/lab.md](../docs/lab.md)).
