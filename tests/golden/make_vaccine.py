"""What the authors' released code computes, as numbers: `vaccine.json` and `t_vaccine.json`.

    python -m tests.golden.make_vaccine CHECKOUT_OF_VACCINE CHECKOUT_OF_T_VACCINE

The checkouts are git-disl/Vaccine and Lslland/T-Vaccine. Of each only the trainer class is run,
without its base class, on a small Llama in float64; nothing of it is kept but the numbers.
"""

import ast
import json
import subprocess
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from workbench.data import IGNORED, Batch

HERE = Path(__file__).parent
LAYERS, RHO, ACTIVE = 4, {"vaccine": 2.0, "t_vaccine": 3.0}, 2
LENGTHS, PROMPTS = (9, 12, 7), (4, 5, 3)
ENTRIES = ((0, 1, 0), (1, 6, 7), (2, 4, 15))
"""Row, position and channel of the entries of ε that are kept."""


def model():
    """A Llama whose weights are the same on every machine and in every version."""
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=40,
        attn_implementation="eager",
    )
    made = LlamaForCausalLM(config).double()
    draw = np.random.RandomState(0)  # its stream is frozen by numpy's policy
    with torch.no_grad():
        for name, p in sorted(made.named_parameters()):
            noise = torch.from_numpy(0.2 * draw.standard_normal(tuple(p.shape)))
            p.copy_(1 + noise if "norm" in name else noise)
    return made.train()  # no dropout in it


def batch(seed):
    """Three right-padded rows of random tokens."""
    ids = torch.from_numpy(np.random.RandomState(seed).randint(3, 40, (len(LENGTHS), max(LENGTHS))))
    at = torch.arange(max(LENGTHS))[None]
    real = at < torch.tensor(LENGTHS)[:, None]
    response = real & (at >= torch.tensor(PROMPTS)[:, None])
    return Batch(ids, real, response, tuple("abc"))


def rows(x, n):
    """The first rows of a batch, as the released code's model takes them."""
    labels = x.input_ids.where(x.response_mask, torch.tensor(IGNORED))
    mask = x.attention_mask.long()
    return {"input_ids": x.input_ids[:n], "attention_mask": mask[:n], "labels": labels[:n]}


def official(checkout, trainer, rho):
    """An instance of a released trainer class, and the function that lists attention modules."""
    source = ast.parse((Path(checkout) / "trainer.py").read_text())
    wanted = [
        node for node in source.body
        if getattr(node, "name", None) in (trainer, "get_leaf_modules_with_grad")
    ]  # fmt: skip
    names = {
        n: getattr(typing, n)
        for n in ("Any", "Callable", "Dict", "Optional", "Tuple", "Union", "List")
    }
    names |= {"torch": torch, "nn": nn, "np": np, "Trainer": object, "DataLoader": object}
    names |= {"LlamaAttention": LlamaAttention, "OPTAttention": type(None)}
    exec(compile(ast.Module(wanted, []), "trainer.py", "exec"), names)
    made = names[trainer]()
    made.args = SimpleNamespace(rho=rho, gradient_accumulation_steps=1)
    return made, names["get_leaf_modules_with_grad"]


def step(trainer, lm, inputs, state):
    """Both passes of the released step: ε by layer, losses, norms of the weights' gradients."""
    trainer.pre_first_step(lm)
    clean = lm(**inputs).loss
    clean.backward()
    trainer.after_first_step(lm)
    lm.zero_grad()
    trainer.pre_second_step(lm)
    perturbed = lm(**inputs).loss
    perturbed.backward()
    trainer.after_second_step(lm)
    drift = {module.layer_idx: e for module, e in state["gradient"].items()}
    return {
        "drift_norm": {str(i): float(e.norm()) for i, e in sorted(drift.items())},
        "drift_entries": {
            str(i): [float(e[at]) for at in ENTRIES] for i, e in sorted(drift.items())
        },
        "clean_loss": clean.item(),
        "perturbed_loss": perturbed.item(),
        "gradient_norm": {n: float(p.grad.norm()) for n, p in lm.named_parameters()},
    }


def vaccine(checkout):
    """A step of `VaccineTrainer`."""
    trainer, _ = official(checkout, "VaccineTrainer", RHO["vaccine"])
    trainer.vaccine_state = {"hooks": [], "gradient": {}}
    lm = model()
    return step(trainer, lm, rows(batch(1), 3), trainer.vaccine_state)


def t_vaccine(checkout):
    """Scoring on one harmful row, a draw, and a step of `BaseTrainer`."""
    trainer, attention_of = official(checkout, "BaseTrainer", RHO["t_vaccine"])
    names = ("gradient", "gradient_special", "gradient_list", "gradient_probability")
    trainer.sam_state = {"hooks": []} | {name: {} for name in names}
    lm = model()
    trainer.layers = attention_of(lm)
    trainer.pre_gradient_magnitude_step(lm)
    lm(**rows(batch(2), 1)).loss.backward()
    trainer.after_gradient_magnitude_step(lm, title="dangerous")
    lm.zero_grad()
    p = trainer.sam_state["gradient_probability"]["dangerous"]
    np.random.seed(0)
    active = [int(i) for i in trainer.switch_active_layers(ACTIVE, p, LAYERS)]
    trainer.active_layers_indices = active
    found = step(trainer, lm, rows(batch(1), 3), trainer.sam_state)
    return {"probability": p, "active": active} | found


def commit(checkout):
    """Of a git checkout."""
    asked = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def main():
    """Write both files."""
    sources = {
        "vaccine": ("git-disl/Vaccine", vaccine),
        "t_vaccine": ("Lslland/T-Vaccine", t_vaccine),
    }
    for (name, (repository, run)), checkout in zip(sources.items(), sys.argv[1:], strict=True):
        source = {"repository": repository, "commit": commit(checkout), "torch": torch.__version__}
        found = {"source": source, "rho": RHO[name]} | run(checkout)
        (HERE / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
