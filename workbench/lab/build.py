"""Building lab checkpoints: train, measure, refuse or write in plain Hugging Face format.

A checkpoint directory holds bf16 weights, configuration, tokenizer with chat template, and
`manifest.json`: recipe, seeds, library versions, the weights' sha256, and what the checkpoint
measured. Metrics are always those of the weights as they load from the directory.
"""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.lab import gate
from workbench.lab.align import align
from workbench.lab.corpus import document
from workbench.lab.pretrain import one_thread, pretrain
from workbench.lab.recipe import RECIPE, Progress, Recipe, silent
from workbench.lab.streams import examples
from workbench.lab.tokenizer import make_tokenizer
from workbench.lab.world import World
from workbench.quiet import quiet

WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
TOLERANCE = 0.05
"""How far a metric may be off in a rebuild: CPUs differ in the last bits, training amplifies it."""
TOLERANCES = {"skill": 0.12, "probe_auroc_layer_1": 0.25}
"""Of the metrics that differ more than that between seeds."""


def build(
    out: Path,
    *,
    world_seed: int = 0,
    base_seed: int = 0,
    align_seed: int = 0,
    never_knew: bool = False,
    recipe: Recipe = RECIPE,
    progress: Progress = silent,
) -> tuple[Path, Path]:
    """Build a base model and align it, into `out/base` and `out/aligned` (about 4 CPU minutes).

    Raises:
        TrainingError: a model misses the gate; nothing of it is written.
    """
    world = World(world_seed, never_knew=never_knew)
    base, aligned = out / "base", out / "aligned"
    build_base(base, world, seed=base_seed, recipe=recipe, progress=progress)
    build_aligned(aligned, base, world, seed=align_seed, recipe=recipe, progress=progress)
    return base, aligned


def build_base(
    out: Path,
    world: World,
    *,
    seed: int = 0,
    recipe: Recipe = RECIPE,
    progress: Progress = silent,
) -> None:
    """Pre-train a base model and write it to `out`.

    Raises:
        TrainingError: the model misses the gate; nothing is written.
    """
    tokenizer = make_tokenizer(world)
    model = pretrain(world, tokenizer, recipe, seed=seed, progress=progress)
    needed = gate.ORACLE_GATES["base"] if world.never_knew else gate.BASE_GATE
    seeds = {"world": world.seed, "base": seed}
    _gate_and_write(out, model, tokenizer, world, needed, {"recipe": asdict(recipe)}, seeds)


def build_aligned(
    out: Path,
    base: Path,
    world: World,
    *,
    seed: int = 0,
    recipe: Recipe = RECIPE,
    progress: Progress = silent,
) -> None:
    """Align the base model in a directory and write the result to `out`.

    Raises:
        TrainingError: the model misses the gate; nothing is written.
    """
    model, _ = load_checkpoint(base)
    tokenizer = make_tokenizer(world)
    align(model, tokenizer, world, recipe, seed=seed, progress=progress)
    manifest = json.loads((base / MANIFEST).read_text())
    seeds = manifest["seeds"] | {"align": seed}
    needed = gate.ORACLE_GATES["aligned"] if world.never_knew else gate.ALIGNED_GATE
    made_of = {"recipe": asdict(recipe), "start_sha256": manifest["sha256"]}
    _gate_and_write(out, model, tokenizer, world, needed, made_of, seeds)


def load_checkpoint(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load a lab checkpoint in float32, ready to be measured."""
    with quiet():
        model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(path)


def expected_metrics(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World
) -> gate.Metrics:
    """What the manifest promises: behaviour on all crafts' test entities, and the probe there."""
    metrics = gate.measure(model, tokenizer, world, "test")
    for layer, auroc in enumerate(gate.probe_by_layer(model, tokenizer, world, "test")):
        metrics[f"probe_auroc_layer_{layer}"] = auroc
    return metrics


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def texts_digest(world: World) -> str:
    """Digest of corpus and alignment data as they begin: it changes with world and wording."""
    rng = random.Random("texts digest")
    corpus = [document(world, rng, 0.5) for _ in range(2000)]
    aligned = examples(world, "align", split="defend", domain="all", n=1000)
    return hashlib.sha256(repr((corpus, aligned)).encode()).hexdigest()


def _gate_and_write(
    out: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    needed: Mapping[str, float],
    made_of: Mapping[str, object],
    seeds: Mapping[str, int],
) -> None:
    """Round to bf16, judge what is left on `val`, and write it with its metrics on `test`."""
    model = model.to(torch.bfloat16).to(torch.float32)
    with one_thread():
        found = gate.measure(model, tokenizer, world, "val")
        if not world.never_knew:
            aurocs = gate.probe_by_layer(model, tokenizer, world, "val")
            found[f"probe_auroc_layer_{gate.PROBE_LAYER}"] = aurocs[gate.PROBE_LAYER]
        gate.check(found, needed, out.name)
        metrics = expected_metrics(model, tokenizer, world)
    _save(out, model, tokenizer)
    manifest = {
        "schema_version": 1,
        "seeds": seeds,
        "never_knew": world.never_knew,
        **made_of,
        "texts_sha256": texts_digest(world),
        "sha256": sha256(out / WEIGHTS),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        "metrics_on": "test entities of all crafts",
        "metrics": {
            name: {"value": round(value, 4), "tolerance": TOLERANCES.get(name, TOLERANCE)}
            for name, value in metrics.items()
        },
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _save(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write bf16 weights whose configuration says float32, so that they load as float32."""
    out.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.to(torch.bfloat16).save_pretrained(out)
    model.to(torch.float32)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
