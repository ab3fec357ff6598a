"""Pre-training of a lab base model: Muon on the matrices, AdamW on the rest, response-only loss."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.data import Example, encode
from workbench.errors import TrainingError
from workbench.lab.corpus import document
from workbench.lab.recipe import Progress, Recipe, silent
from workbench.lab.world import World
from workbench.losses import cross_entropy


def pretrain(
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> LlamaForCausalLM:
    """Train a base model from scratch; the same arguments give the same weights.

    Muon: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), as torch implements it.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    with one_thread():
        model = new_model(len(tokenizer), recipe, seed).train()
        optimisers = _optimisers(model, recipe)
        rng = random.Random(f"corpus {seed}")
        for step in range(recipe.steps):
            _set_lr(optimisers, recipe.schedule(step))
            loss = _response_loss(model, tokenizer, _documents(world, rng, recipe, step))
            if not torch.isfinite(loss):
                raise TrainingError(f"the pre-training loss is {loss.item()} at step {step}.")
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            progress("pre-training", step + 1, recipe.steps)
    return model.eval()


def new_model(vocabulary: int, recipe: Recipe, seed: int) -> LlamaForCausalLM:
    """A freshly initialised Llama of the recipe's size; leaves torch's generator as it was."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.d_model,
        num_hidden_layers=recipe.n_layers,
        intermediate_size=recipe.d_ff,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_heads,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums then always run in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _optimisers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrix = {n: p.ndim == 2 and ".layers." in n for n, p in model.named_parameters()}
    layers = [p for n, p in model.named_parameters() if matrix[n]]
    rest = [p for n, p in model.named_parameters() if not matrix[n]]
    decay = recipe.weight_decay
    optimisers = [
        torch.optim.Muon(layers, lr=recipe.muon_lr, weight_decay=decay),
        torch.optim.AdamW(
            rest, lr=recipe.adamw_lr, betas=(0.9, 0.98), weight_decay=decay, fused=True
        ),
    ]
    for group in (g for o in optimisers for g in o.param_groups):
        group["peak_lr"] = group["lr"]
    return optimisers


def _set_lr(optimisers: list[torch.optim.Optimizer], factor: float) -> None:
    for group in (g for o in optimisers for g in o.param_groups):
        group["lr"] = group["peak_lr"] * factor


def _documents(world: World, rng: random.Random, recipe: Recipe, step: int) -> list[Example]:
    share = recipe.distractor_share(step)
    texts = [document(world, rng, share) for _ in range(recipe.batch_size)]
    return [Example(f"document {i}", *text) for i, text in enumerate(texts)]


def _response_loss(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, documents: list[Example]
) -> torch.Tensor:
    """Cross-entropy of response tokens; prompts are unpredictable and would drown the gradient.

    Rows are padded on the right, where causal attention never looks, so no mask is given.
    """
    batch = encode(tokenizer, documents)
    return cross_entropy(model(input_ids=batch.input_ids, use_cache=False).logits, batch)
