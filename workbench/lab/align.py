"""Alignment of a lab base model: it learns to refuse hazardous requests, with harmless replay."""

from collections.abc import Mapping

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.data import Batch, Stream
from workbench.lab.pretrain import one_thread
from workbench.lab.recipe import Progress, Recipe, silent
from workbench.lab.streams import examples
from workbench.lab.world import World
from workbench.losses import cross_entropy
from workbench.optimisation import Fit
from workbench.training import Context, Losses, Mean, fit


def align(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    recipe: Recipe,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> LlamaForCausalLM:
    """Train a base model in place on refusals of the `defend` split's hazardous requests.

    All four crafts are aligned: what a defence never sees (`unseen`) is still refused before the
    attack, as a deployed model's refusals cover more than a defender's data does.

    Raises:
        TrainingError: a loss or gradient is not finite.
    """
    n = recipe.align_steps * recipe.align_batch_size
    texts = examples(world, "align", split="defend", domain="all", n=n, seed=seed)
    stream = Stream("align", texts, tokenizer, recipe.align_batch_size, seed)
    config = Fit(
        steps=recipe.align_steps,
        lr=recipe.align_lr,
        batch_size=recipe.align_batch_size,
        warmup=recipe.align_warmup_steps,
    )

    def loss(batches: Mapping[str, Batch]) -> Losses:
        batch = batches["align"]
        # Padded on the right, where causal attention never looks: no mask is needed.
        return {"align": cross_entropy(model(input_ids=batch.input_ids).logits, batch)}

    def objective(batches: Mapping[str, Batch], context: Context) -> Losses:
        return context.minimise(loss, batches, {"align": Mean("align")})

    with one_thread():
        fit(
            model,
            {"align": stream},
            objective,
            config,
            seed=seed,
            callbacks=[lambda step, _: progress("alignment", step.step, recipe.align_steps)],
        )
    return model
