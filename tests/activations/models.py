"""What these tests share: batches without a tokenizer, adapters, and counting torch hooks."""

import peft
import torch
from torch import nn

from tests.tiny import FAMILIES, VOCABULARY
from workbench.data import Batch

LENGTHS = (9, 5, 7)
PROMPT = 3


def batch(side: str = "right", seed: int = 0) -> Batch:
    """Three rows of different lengths, the first three tokens of each being the prompt."""
    width = max(LENGTHS)
    ids, real = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.bool)
    response = real.clone()
    tokens = torch.randint(6, VOCABULARY, (3, width), generator=torch.Generator().manual_seed(seed))
    for i, n in enumerate(LENGTHS):
        start = width - n if side == "left" else 0
        ids[i, start : start + n] = tokens[i, :n]
        real[i, start : start + n] = True
        response[i, start + PROMPT : start + n] = True
    return Batch(ids, real, response, ("a", "b", "c"))


TARGETS = {"gpt2": ["c_attn", "c_proj"]}


def adapted(family: str) -> peft.PeftModel:
    """A tiny model with an adapter that adds something, the same each time."""
    torch.manual_seed(0)
    targets = TARGETS.get(family, ["q_proj", "v_proj", "down_proj"])
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    return peft.get_peft_model(FAMILIES[family](), config)


def hook_count(model: nn.Module) -> int:
    """How many torch hooks a model carries."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def loss(out, x: Batch) -> torch.Tensor:
    """Cross-entropy of the response tokens."""
    flat = out.logits[:, :-1].flatten(0, 1), x.targets.flatten()
    return nn.functional.cross_entropy(*flat, ignore_index=-100)
