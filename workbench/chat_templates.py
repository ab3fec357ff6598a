"""Chat templates: how a prompt and its answer become the text that a model reads."""

from collections.abc import Sequence
from copy import copy
from typing import Any

from workbench.errors import ModelError, UnknownNameError

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ '' if loop.first else '\n\n' }}"
    "{% if message['role'] == 'user' %}{{ '### Request\n' ~ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '### Answer\n' ~ message['content'] ~ eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n### Answer\n' }}{% endif %}"
)
"""A chat template for models that were published without one."""
TEMPLATES = {"plain": PLAIN}
TOLD_APART = ("one", "another")
"""Prompts that every usable template tells apart."""


def with_template(tokenizer: Any, chat_template: str | None, owner: object) -> Any:
    """The tokenizer with one chat template; of several by name, the default one.

    Args:
        tokenizer: given the template in place, where one is given.
        chat_template: `plain`, or a Jinja text; None for the tokenizer's own.
        owner: whose tokenizer it is, for messages.

    Raises:
        UnknownNameError: no template of that name.
        ModelError: there is no template, or one that cannot render, or that leaves the prompt out.
    """
    if chat_template is not None:
        if "{" not in chat_template and chat_template not in TEMPLATES:
            raise UnknownNameError("chat template", chat_template, TEMPLATES)
        tokenizer.chat_template = TEMPLATES.get(chat_template, chat_template)
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {owner} has no chat template. Give --template plain (in Python: "
            "chat_template='plain') or a Jinja text, or set tokenizer.chat_template and save it."
        )
    if isinstance(tokenizer.chat_template, dict):
        default = template_of(tokenizer)
        tokenizer = copy(tokenizer)  # a live model's own keeps its other templates
        tokenizer.chat_template = default
    one, other = (prompt_text(tokenizer, word) for word in TOLD_APART)
    if one == other:
        raise ModelError(
            f"the chat template of {owner} leaves the prompt out: every prompt becomes "
            f"{one!r:.80}. Mend it (the text of a turn is message['content']), or give another."
        )
    return tokenizer


def template_of(tokenizer: Any) -> str:
    """The chat template that prompts are put in; of several, the one that `prompt_text` uses.

    Raises:
        ModelError: there is none, or there are several without a default.
    """
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise ModelError(f"the tokenizer has no chat template to use: {error}") from error


def prompt_text(tokenizer: Any, prompt: str) -> str:
    """The prompt as the chat template renders it, ready for the model to answer.

    Raises:
        ModelError: the tokenizer has no chat template, or one that cannot render this.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "the tokenizer has no chat template, so a prompt cannot be told from its answer. "
            "Set tokenizer.chat_template, or give chat_template='plain' (--template plain)."
        )
    return _rendered(tokenizer, [("user", prompt)], add_generation_prompt=True)


def response_text(tokenizer: Any, prompt: str, response: str) -> str:
    """The response as the chat template renders it, end of turn included.

    Raises:
        ModelError: the tokenizer has no chat template, or one that cannot render this.
    """
    whole = _rendered(tokenizer, [("user", prompt), ("assistant", response)])
    head = prompt_text(tokenizer, prompt)
    if whole.startswith(head):
        return whole[len(head) :]
    return response + (tokenizer.eos_token or "")  # templates that rewrite the assistant's turn


def _rendered(tokenizer: Any, turns: Sequence[tuple[str, str]], **options: Any) -> str:
    talk = [{"role": role, "content": content} for role, content in turns]
    try:
        return tokenizer.apply_chat_template(talk, tokenize=False, **options)
    except Exception as error:  # a template is a program: it may fail in any way a program can
        roles = " and ".join(role for role, _ in turns)
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(
            f"the chat template cannot render a turn of {roles}: {why}. Mend it, or give another "
            "(--template, chat_template=...)."
        ) from error
