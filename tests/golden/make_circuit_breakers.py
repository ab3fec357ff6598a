"""Make circuit_breakers.json: `python -m tests.golden.make_circuit_breakers CHECKOUT`.

CHECKOUT is a checkout of the released code or of a fork of it; its `compute_loss` is run as it is,
on a tiny model made here, and only numbers are kept. `compute_loss` comes from a script that
imports a training stack, so it is cut out of the file by its name. The numbers kept are those of
ks-fahad/CircuitBreakers at 899261b, a fork of GraySwanAI/circuit-breakers.
"""

import ast
import gc
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn.functional import cosine_similarity

from tests import tiny
from workbench.adapters import with_lora
from workbench.data import Batch

FILE = Path(__file__).with_name("circuit_breakers.json")
SCRIPT = "src/lorra_circuit_breaker.py"
STEPS, ALPHA, STATES = 150, 10.0, (1, 3)
"""T and α of the paper, and two indices into `hidden_states` of a model of four blocks."""
TIMES = (1, 77, 149)
LENGTHS = {"harmful": (9, 5, 7), "retain": (4, 11, 6)}


def model(moved: bool):
    """A tiny Llama with adapters, its weights a formula, so that no random generator matters."""
    made = with_lora(tiny.llama(num_hidden_layers=4), rank=2, alpha=4.0)
    with torch.no_grad():
        for i, (name, p) in enumerate(made.named_parameters()):
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 12.9898 + i)
            size = {"lora_B": 0.2 * moved, "lora_A": 0.3}.get(name.split(".")[-3], 0.25)
            p.copy_((wave * size + ("norm" in name)).view(p.shape))
    return made.eval()


def batch(stream: str, side: str) -> Batch:
    """Rows of different lengths, padded on one side."""
    lengths = LENGTHS[stream]
    width = max(lengths)
    ids, real = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.bool)
    for i, n in enumerate(lengths):
        start = width - n if side == "left" else 0
        ids[i, start : start + n] = (torch.arange(n) * 37 + 11 * i + len(stream)) % 300 + 6
        real[i, start : start + n] = True
    return Batch(ids, real, real, ("a", "b", "c"))


def released(checkout: Path):
    """The released loss, with what it uses of its module."""
    tree = ast.parse((checkout / SCRIPT).read_text())
    wanted = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "compute_loss"]
    space = {
        "torch": torch,
        "cosine_similarity": cosine_similarity,
        "gc": gc,
        "print": lambda *a: 0,
    }
    exec(compile(ast.Module(wanted, []), SCRIPT, "exec"), space)
    return space["compute_loss"]


def loss(compute_loss, *, t: int, moved: bool, side: str) -> float:
    """The released loss in step t, counted as there: the counter goes up first."""
    trainer = SimpleNamespace(current_training_step=t - 1)
    trainer.get_training_progress = lambda: trainer.current_training_step / (2 * STEPS)
    harmful, retain = batch("harmful", side), batch("retain", side)
    inputs = {
        "input_ids": retain.input_ids,
        "attention_mask": retain.attention_mask.long(),
        "input_ids_circuit_breaker": harmful.input_ids,
        "attention_mask_circuit_breaker": harmful.attention_mask.long(),
    }
    return float(compute_loss(trainer, model(moved), inputs, list(STATES), ALPHA))


def main(checkout: str) -> None:
    compute_loss = released(Path(checkout))
    cases = [
        {"t": t, "moved": moved, "side": side}
        for t in TIMES
        for moved in (False, True)
        for side in ("left", "right")
    ]
    values = [case | {"loss": loss(compute_loss, **case)} for case in cases]
    FILE.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
