"""The files of a model: finding them, checking that they are a chat model's, reading them."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from workbench.errors import ModelError, UnknownNameError
from workbench.lab import checkpoint_path
from workbench.lab.checkpoints import CHECKPOINTS, PREFIX
from workbench.quiet import quiet

ADAPTER = "adapter_config.json"
WEIGHTS = "*.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""A directory with a tokenizer has at least one of these."""
WANTED = ["*.json", WEIGHTS, "*.jinja", *TOKENIZERS, "merges.txt"]
"""What is fetched from the Hub."""


def find(name: str) -> Path:
    """The directory of a model on this machine: the lab's, the one named, or the Hub's cache.

    Raises:
        UnknownNameError: there is none.
    """
    if name.startswith(PREFIX):
        return checkpoint_path(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(name, allow_patterns=WANTED))
    except LocalEntryNotFoundError:
        hint = "It is not in the Hub's local cache either, and the Hub cannot be reached."
        if constants.HF_HUB_OFFLINE:
            hint = "HF_HUB_OFFLINE is set, and the Hub's local cache does not hold it either."
    except HfHubHTTPError as error:
        hint = f"As a Hub id: {str(error).splitlines()[0]}"
    except HFValidationError:
        hint = "Give a lab model, a directory or a Hub id."
    near = [str(x.parent) for x in sorted(path.parent.glob("*/*config.json"))]
    raise UnknownNameError("model", name, {*(PREFIX + x for x in CHECKPOINTS), *near}, hint)


def read_model(
    directory: Path, dtype: torch.dtype | None, device_map: str | dict[str, Any] | None = None
) -> Any:
    """The causal language model in a directory, in evaluation mode; no dtype: as it was saved.

    What a device map sends to disk is read from the directory itself, if it is safetensors.

    Raises:
        ModelError: the directory does not hold one, whole.
    """
    _check(directory)
    try:
        with quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=dtype or "auto",
                device_map=device_map,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{directory}: its weights cannot be loaded: {error}") from error
    if report["mismatched_keys"]:
        name, saved, built = min(report["mismatched_keys"])
        raise ModelError(
            f"{directory}: {len(report['mismatched_keys'])} weights have other shapes than its "
            f"config.json says, the first is {name}: {tuple(saved)} in the file, {tuple(built)} "
            f"for {type(model).__name__}. Correct config.json, or save the model again with "
            "save_pretrained."
        )
    for what in ("missing", "unexpected"):
        if report[f"{what}_keys"]:
            raise ModelError(
                f"{directory}: {what} weights for {type(model).__name__}: "
                f"{', '.join(sorted(report[f'{what}_keys'])[:5])}. The files do not belong to this "
                "config.json; save the model again with save_pretrained."
            )
    return model


def _check(directory: Path) -> None:
    found = ", ".join(sorted(x.name for x in directory.iterdir())) or "nothing"
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory} has no config.json, so it is no model. It holds: {found}.")
    try:
        config = AutoConfig.from_pretrained(directory)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{directory}: its config.json cannot be read: {error}") from error
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if config.architectures and causal.isdisjoint(config.architectures):
        raise ModelError(
            f"{directory} holds a {', '.join(config.architectures)}, which is not a causal "
            "language model with a head. Give a ...ForCausalLM."
        )
    if not list(directory.glob(WEIGHTS)):
        raise ModelError(f"{directory} has no weights ({WEIGHTS}). It holds: {found}.")


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory holds a tokenizer's files."""
    return any((directory / file).is_file() for file in TOKENIZERS)


def read_tokenizer(directory: Path) -> Any:
    """The tokenizer in a directory.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    if not has_tokenizer(directory):
        raise ModelError(
            f"{directory} has no tokenizer ({', '.join(TOKENIZERS)}). Save it there with "
            "tokenizer.save_pretrained, or give load(..., tokenizer=...)."
        )
    try:
        return AutoTokenizer.from_pretrained(directory)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise ModelError(f"{directory}: its tokenizer cannot be loaded: {error}") from error


def weights_digest(directory: Path) -> str:
    """SHA-256 over that of each weight file, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob(WEIGHTS)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
