"""Golden numbers of RepNoise from its released code, on a tiny Llama in double precision.

    git clone https://github.com/domenicrosati/representation-noising CHECKOUT
    python -m tests.golden.make_rep_noise CHECKOUT

writes `rep_noise.json` beside this file. Numbers are kept, code is not.
"""

import importlib.util
import json
import sys
import zlib
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

GOLDEN = Path(__file__).with_name("rep_noise.json")
SEED = 7
WEIGHTS = {"all": (1.0, 1e-3), "stability": (0.0, 0.0), "ascent": (0.5, 0.0), "noise": (0.0, 1.0)}
"""Name of a case -> (alpha, beta)."""
PROMPTS = [[3, 14, 15], [3, 9, 26, 5, 35], [3, 8], [3, 9, 7, 9]]
HARMFUL = [[40, 41, 42, 43, 44, 2], [50, 51, 2], [60, 61, 62, 63, 2], [40, 70, 42, 2]]
REFUSAL = [[80, 41, 81, 2], [82, 83, 84, 85, 2], [86, 61, 87, 2], [40, 88, 89, 90, 91, 2]]
"""Some tokens agree in place, one answer begins alike, each side is longer once."""


def model(pad: int) -> PreTrainedModel:
    """Weights follow from their names alone, whatever order a library draws them in."""
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=pad,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    made = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            drawn = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            noise = torch.randn(p.shape, generator=drawn, dtype=p.dtype)
            p.copy_(1 + 0.1 * noise if p.ndim == 1 else 0.3 * noise)
    return made


def padded(answers: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both sides padded on the right to one width."""
    pairs = [*zip(PROMPTS, HARMFUL, strict=True), *zip(PROMPTS, REFUSAL, strict=True)]
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(PROMPTS), width), pad)
    real = torch.zeros_like(ids)
    for i, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        row = prompt + answer
        ids[i, : len(row)] = torch.tensor(row)
        real[i, : len(row)] = 1
    return ids, real


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples for the discrepancy alone."""
    drawn = torch.Generator().manual_seed(SEED)
    return tuple(torch.randn(5, 11, generator=drawn, dtype=torch.float64) for _ in "xy")  # type: ignore[return-value]


def main(checkout: Path) -> None:
    source = checkout / "representation_noising" / "loss.py"
    spec = importlib.util.spec_from_file_location("released", source)
    assert spec is not None and spec.loader is not None
    released = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(released)
    released.DEVICE = torch.device("cpu")
    x, y = samples()
    found: dict = {"mmd": float(released.MMD_loss()(x, 1.5 * y + 0.3))}
    for pad in (0, 94):
        batches = [
            dict(zip(("input_ids", "attention_mask"), padded(side, pad), strict=True))
            for side in (HARMFUL, REFUSAL)
        ]
        for case, (alpha, beta) in WEIGHTS.items():
            llama = model(pad)
            torch.manual_seed(SEED)
            loss = released.rep_noise_loss(llama, *batches, beta=beta, alpha=alpha)
            loss.backward()
            grads = {
                n: float(p.grad.norm()) for n, p in llama.named_parameters() if p.grad is not None
            }
            found[f"{case}, padding {pad}"] = {
                "loss": float(loss.detach()),
                "gradient_norms": grads,
            }
        mask = (batches[0]["input_ids"] != batches[1]["input_ids"]).double()
        out = model(pad)(**batches[0])
        ce = released.masked_token_ce_loss(out.logits, batches[0]["input_ids"], mask)
        found[f"masked cross-entropy, padding {pad}"] = float(ce.detach())
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
