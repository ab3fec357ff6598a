"""Chat models by name: a lab model, a local directory, a Hub id, or a live object.

Everything becomes a directory in plain Hugging Face format (or a PEFT adapter's) before it is
loaded, so there is one way in and one set of checks. Weights are safetensors only.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from workbench.adapter_bases import bases
from workbench.chat_templates import with_template
from workbench.errors import ModelError, UnknownNameError
from workbench.files import PARTIAL
from workbench.lab.checkpoints import PREFIX
from workbench.model_files import (
    ADAPTER,
    WEIGHTS,
    find,
    has_tokenizer,
    read_model,
    read_tokenizer,
    weights_digest,
)
from workbench.quiet import quiet
from workbench.read_only import offloaded, quantisation, refuse_read_only, tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, and what it is."""

    model: Any
    """A `PreTrainedModel` or `PeftModel`, in evaluation mode."""
    tokenizer: Any
    name: str
    digest: str
    """SHA-256 of the weights: of the files, or of the tensors of a live model."""


def load(
    name: str | Path | nn.Module,
    *,
    tokenizer: Any = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    chat_template: str | None = None,
) -> Loaded:
    """Load a model with its tokenizer.

    Args:
        name: `lab:aligned` and its like; a directory with a model or a PEFT adapter; a Hub id
            (`HF_HUB_OFFLINE=1` reads the local cache only); or a live model.
        tokenizer: instead of the model's own; a live model needs one.
        device: where to put the model.
        dtype: of the weights; by default fp32 for lab models, else as they were saved.
        device_map: instead of `device`, accelerate's: `auto`, or a place for each part; what is
            offloaded can be read but not trained.
        chat_template: instead of the tokenizer's own: `plain`, or a Jinja text.

    Raises:
        UnknownNameError: no such model, directory, template or dtype.
        ModelError: what is there cannot be used as a chat model; the message says why.
    """
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise UnknownNameError("dtype", dtype, DTYPES)
        dtype = DTYPES[dtype]
    if isinstance(name, nn.Module):
        return _live(name, tokenizer, device, dtype, chat_template)
    text = str(name)
    directory = find(text)
    if dtype is None and text.startswith(PREFIX):
        dtype = torch.float32
    if (directory / ADAPTER).is_file():
        return _adapter(directory, text, tokenizer, device, dtype, device_map, chat_template)
    model = read_model(directory, dtype, device_map)
    model = model if device_map is not None else placed(model, device, None)
    tokenizer = with_template(tokenizer or read_tokenizer(directory), chat_template, directory)
    _check_vocabulary(model, tokenizer, text)
    return Loaded(model, tokenizer, text, weights_digest(directory))


def tokenizer_of(name: str, chat_template: str | None = None) -> Any:
    """The tokenizer that `load` would give, without loading the weights.

    Raises:
        UnknownNameError: no such model or template.
        ModelError: no tokenizer, or one without a chat template.
    """
    directory = find(name)
    if (directory / ADAPTER).is_file() and not has_tokenizer(directory):
        base = _adapter_config(directory).base_model_name_or_path or ""
        return tokenizer_of(base, chat_template)
    return with_template(read_tokenizer(directory), chat_template, directory)


def digest_of(name: str) -> str:
    """The digest that `load` would give, without loading the weights.

    Raises:
        UnknownNameError: no such model.
        ModelError: an adapter that cannot be read, or that is for itself.
    """
    directory = find(name)
    own = weights_digest(directory)
    if not (directory / ADAPTER).is_file():
        return own
    base = digest_of(_adapter_config(directory).base_model_name_or_path or "")
    return _with_base(base, own)


def best_device(name: str) -> str:
    """A GPU if there is one. Lab models stay on the CPU: they are faster there, and exact."""
    return "cuda" if torch.cuda.is_available() and not name.startswith(PREFIX) else "cpu"


def save(model: Any, tokenizer: Any, directory: str | Path) -> None:
    """Write a model and its tokenizer in plain Hugging Face format (a PEFT model: its adapter).

    The directory appears whole or not at all; one that was there is replaced.

    Raises:
        ModelError: the weights are quantised or offloaded.
    """
    if not isinstance(model, PeftModel):
        refuse_read_only(model, "saving in plain format")
    target = Path(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=target.parent) as parent:
        made = Path(parent) / "new"
        with quiet():
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
        if target.exists():
            target.rename(Path(parent) / "old")
        made.rename(target)


def _live(
    model: nn.Module,
    tokenizer: Any,
    device: torch.device | str,
    dtype: torch.dtype | None,
    chat_template: str | None,
) -> Loaded:
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel | PeftModel):
        raise ModelError(f"a {kind} is not a Hugging Face or PEFT model.")
    if tokenizer is None:
        raise ModelError(f"a live model comes without tokenizer: load({kind}, tokenizer=...).")
    if model.get_output_embeddings() is None:
        raise ModelError(f"{kind} has no language-model head, so it cannot write an answer.")
    placed(model, device, dtype).eval()
    tokenizer = with_template(tokenizer, chat_template, kind)
    _check_vocabulary(model, tokenizer, kind)
    return Loaded(model, tokenizer, str(model.config.name_or_path) or kind, _tensor_digest(model))


def placed(model: Any, device: torch.device | str, dtype: torch.dtype | None) -> Any:
    """The model on a device; what is quantised or offloaded stays where and what it is.

    Raises:
        ModelError: another dtype is asked of weights that cannot change it.
    """
    how = quantisation(model) or ("offloaded" if offloaded(model) else None)
    if how is None:
        return model.to(device=device, dtype=dtype)
    if dtype is not None:
        raise ModelError(f"the dtype of {how} weights cannot be changed; leave dtype out.")
    return model


def _check_vocabulary(model: Any, tokenizer: Any, owner: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ModelError(
            f"{owner}: the tokenizer has token id {largest}, the model embeds only {rows} tokens. "
            "They do not belong together; or call model.resize_token_embeddings."
        )


def _adapter(
    directory: Path,
    name: str,
    tokenizer: Any,
    device: torch.device | str,
    dtype: torch.dtype | None,
    device_map: str | dict[str, Any] | None,
    chat_template: str | None,
) -> Loaded:
    """A PEFT adapter on its base. The tokenizer beside the adapter, if any, is preferred."""
    config = _adapter_config(directory)
    if tokenizer is None and has_tokenizer(directory):
        tokenizer = read_tokenizer(directory)
    where = config.base_model_name_or_path or "(no base named)"
    try:
        base = load(
            where,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            device_map=device_map,
            chat_template=chat_template,
        )
    except UnknownNameError as error:
        raise ModelError(
            f"{directory} is an adapter for {where!r}, which is not there. Put it back, or correct "
            f"base_model_name_or_path in {ADAPTER}. ({error})"
        ) from error
    if offloaded(base.model):
        raise ModelError(
            f"{directory}: an adapter cannot be put on a base that is offloaded, PEFT would drop "
            "it. Load it without device_map, or merge it first (merge_lora) and save that."
        )
    try:
        model = PeftModel.from_pretrained(base.model, str(directory), is_trainable=True).eval()
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{directory}: it does not fit its base {where!r}: {error}") from error
    return Loaded(model, base.tokenizer, name, _with_base(base.digest, weights_digest(directory)))


def _with_base(base: str, adapter: str) -> str:
    return hashlib.sha256(f"{base} {adapter}".encode()).hexdigest()


def _adapter_config(directory: Path) -> PeftConfig:
    try:
        config = PeftConfig.from_pretrained(str(directory))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{directory}: its {ADAPTER} cannot be read: {error}") from error
    if config.is_prompt_learning:
        raise ModelError(
            f"{directory}: a {config.peft_type} adapter adds positions that are no tokens, so "
            "activations would not line up with text. Use LoRA or another adapter of weights."
        )
    if not list(directory.glob(WEIGHTS)):
        raise ModelError(f"{directory} has no adapter weights ({WEIGHTS}).")
    bases(directory)  # refuses an adapter that is for itself
    return config


def _tensor_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
