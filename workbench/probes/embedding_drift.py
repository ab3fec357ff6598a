"""Harmful embedding drift (HED): how far training moves the hidden states, layer by layer.

Huang, Hu & Liu, "Vaccine: perturbation-aware alignment for large language models against harmful
fine-tuning attack", NeurIPS 2024, arXiv:2402.01109, figure 2: the L2 distance between the hidden
embeddings of the aligned and of the fine-tuned model on the same data. Measured on benign text too:
only what exceeds the benign drift is specific to harm.

The released code sums squares over padded positions, layers and batches, so its numbers depend on
text length; here every number is a mean over real tokens.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.activations import HookedLM
from workbench.data import Batch
from workbench.errors import UnknownNameError
from workbench.probes._base import At
from workbench.rows import EmbeddingDrift

Positions = Literal["last_prompt", "prompt", "response", "all"]
Hidden = dict[str, Float[Tensor, "batch pos d_model"]]


@torch.no_grad()
def embedding_drift(
    model: nn.Module,
    reference: nn.Module,
    batch: Batch,
    at: At,
    site: str = "resid_post",
    positions: Positions = "last_prompt",
) -> list[EmbeddingDrift]:
    """Compare two checkpoints' activations on the same tokens; one row per example and measure.

    Measures: `l2` = ‖h − h_ref‖, `relative_l2` = ‖h − h_ref‖ / ‖h_ref‖, `cosine_distance` =
    1 − cos(h, h_ref), each a mean over the chosen tokens, one value a layer. The paper's site is
    `attn_module_out`.
    """
    batch = batch.to(next(model.parameters()).device)
    chosen = select(batch, positions)
    now, then = hidden_states(model, batch, site), hidden_states(reference, batch, site)
    by_layer = [_distances(now[name], then[name].to(chosen.device), chosen) for name in then]
    return [
        EmbeddingDrift(
            stage=at.stage,
            step=at.step,
            reference=at.reference,
            group=at.group,
            example=example,
            site=site,
            positions=positions,
            measure=measure,
            values=[layer[measure][row].item() for layer in by_layer],
        )
        for row, example in enumerate(batch.examples)
        for measure in ("l2", "relative_l2", "cosine_distance")
    ]


def select(batch: Batch, positions: Positions) -> Bool[Tensor, "batch pos"]:
    """Which tokens a measure speaks of; padding never counts.

    Raises:
        UnknownNameError: no such choice of positions.
    """
    prompt = batch.attention_mask & ~batch.response_mask
    if positions == "last_prompt":
        order = torch.arange(prompt.shape[1], device=prompt.device)
        return order == (order * prompt).amax(-1, keepdim=True)
    choices = {"prompt": prompt, "response": batch.response_mask, "all": batch.attention_mask}
    if positions not in choices:
        raise UnknownNameError("choice of positions", positions, get_args(Positions))
    return choices[positions]


def hidden_states(model: nn.Module, batch: Batch, site: str) -> Hidden:
    """Activations at one site of every layer, by canonical site name, in layer order."""
    was_training = model.training
    model.eval()
    lm = HookedLM(model, check=False)
    with lm.record(site) as acts:
        lm(batch)
    model.train(was_training)
    return {name: acts[name].float() for name in lm.resolve(site)}


def _distances(
    now: Float[Tensor, "batch pos d_model"],
    then: Float[Tensor, "batch pos d_model"],
    chosen: Bool[Tensor, "batch pos"],
) -> dict[str, Float[Tensor, " batch"]]:
    moved, size = (now - then).norm(dim=-1), then.norm(dim=-1)
    cosine = torch.cosine_similarity(now, then, dim=-1)
    same = (now == then).all(-1)  # rounding must not turn "did not move" into a small distance
    measures = {
        "l2": moved,
        "relative_l2": moved / size.clamp_min(torch.finfo(size.dtype).tiny),
        "cosine_distance": torch.where(same, 0.0, 1 - cosine),
    }
    count = chosen.sum(-1).clamp(min=1)
    return {name: (x * chosen).sum(-1) / count for name, x in measures.items()}
