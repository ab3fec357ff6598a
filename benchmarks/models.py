"""The random-weight models and batches that rows are measured on."""

from dataclasses import asdict, dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from workbench.data import Batch

VOCABULARY = 1024


@dataclass(frozen=True)
class Shape:
    """A Llama and the batch it reads."""

    d_model: int = 256
    layers: int = 8
    batch: int = 4
    positions: int = 128

    def configuration(self) -> dict[str, object]:
        """For the record."""
        return {"model": "Llama, random weights, sdpa, fp32"} | asdict(self)


USUAL = Shape()
TINY = Shape(d_model=64, layers=4, batch=1, positions=16)
QUICK = Shape(d_model=32, layers=2, batch=2, positions=8)


def llama(shape: Shape) -> PreTrainedModel:
    """Llama's proportions: heads of 64 (or fewer, if small), an MLP 8/3 as wide."""
    heads = max(1, shape.d_model // 64)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.d_model,
        intermediate_size=round(shape.d_model * 8 / 3 / 16) * 16,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config).eval()


def batch(shape: Shape) -> Batch:
    """Random tokens without padding; the second half is the response."""
    size = (shape.batch, shape.positions)
    ids = torch.randint(6, VOCABULARY, size, generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(ids, dtype=torch.bool)
    response = real.clone()
    response[:, : shape.positions // 2] = False
    return Batch(ids, real, response, tuple(map(str, range(shape.batch))))
