"""Two recordings side by side, example by example, without torch.

Rows of different checkpoints (or of different models) may be compared only if they are of the same
texts and of the same tokens of these texts. That is checked, never assumed.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from workbench.errors import RecordingError
from workbench.recordings import Recording

POOLED = ("last_prompt", "mean_response")
"""One row an example: these line up whatever the tokenizer is."""
SHOWN = 5


def require_same_panel(one: Recording, two: Recording) -> None:
    """Refuse recordings whose rows are not of the same texts and tokens.

    Raises:
        RecordingError: no panel, another panel (the message names the examples that differ), other
            positions, other token ids, or a tokenizer that is another or unknown where that moves
            tokens.
    """
    first, second = (recording.manifest.panel for recording in (one, two))
    for recording, panel in ((one, first), (two, second)):
        if panel is None:
            raise RecordingError(
                f"{recording.path} does not say which texts it is of, so it cannot be laid beside "
                "another recording. Record with a prompt set (texts=...)."
            )
    if first and second and first["sha256"] != second["sha256"]:
        raise RecordingError(
            f"{one.path} and {two.path} are of different panels: {_title(first)} and "
            f"{_title(second)}. {differing(first['examples'], second['examples'])}"
        )
    moved = () if one.manifest.positions in POOLED else ("tokenizer",)
    cut = () if one.manifest.positions == "last_prompt" else ("cut",)
    for what in ("positions", *moved, *cut):
        a, b = getattr(one.manifest, what), getattr(two.manifest, what)
        if a != b:
            raise RecordingError(
                f"{one.path} and {two.path} differ in their {what} ({a}, {b}), so their rows are "
                "not of the same tokens."
            )
    _require_same_tokens(one, two)


def _require_same_tokens(one: Recording, two: Recording) -> None:
    """Token ids are compared where the manifests know them; the names above are what is left."""
    a, b = one.manifest, two.manifest
    if a.positions == "last_prompt" or a.tokenizer != b.tokenizer:
        return  # pooled rows alone get here under two tokenizers
    known = a.tokens is not None and b.tokens is not None
    if known and a.tokens != b.tokens:
        raise RecordingError(
            f"{one.path} and {two.path} were given other token ids of the same texts (cut to "
            "another length, say, or in another order), so their rows are not of the same tokens."
        )
    if not known and a.tokenizer is None and a.positions not in POOLED:
        raise RecordingError(
            f"{one.path} and {two.path} may have read their texts as different tokens: neither "
            "says which tokenizer it was. Record with tokenizer=..."
        )


def differing(one: dict[str, str], two: dict[str, str]) -> str:
    """In words, which texts two panels do not share; id -> digest each."""
    kinds = {
        "only in the first": [x for x in one if x not in two],
        "only in the second": [x for x in two if x not in one],
        "with other text": [x for x in one if x in two and one[x] != two[x]],
    }
    said = [f"{what}: {_some(names)}" for what, names in kinds.items() if names]
    return f"Examples {'; '.join(said)}." if said else "The order of their examples differs."


def read_both(
    one: Recording,
    two: Recording,
    site: str,
    *,
    steps: tuple[int, int] = (0, 0),
    examples: Sequence[str] | None = None,
) -> tuple[Float32[np.ndarray, "row d_model"], Float32[np.ndarray, "row d_model"]]:
    """Rows of both recordings at a site: row i of each is of the same token of the same example.

    Args:
        one: a recording.
        two: another, of the same panel.
        site: a canonical name.
        steps: of `one` and of `two`.
        examples: which, in the order wanted; None for all that `one` holds, in its order.

    Raises:
        RecordingError: not of the same panel (`require_same_panel`), an example that one of them
            lacks, or one with more rows in one than in the other.
    """
    require_same_panel(one, two)
    lengths, others = one.lengths(steps[0]), two.lengths(steps[1])
    wanted = list(lengths if examples is None else examples)
    absent = [x for x in wanted if x not in lengths or x not in others]
    if absent:
        raise RecordingError(
            f"{one.path} at step {steps[0]} and {two.path} at step {steps[1]} do not both hold "
            f"{_some(absent)}."
        )
    uneven = [x for x in wanted if lengths[x] != others[x]]
    if uneven:
        raise RecordingError(
            f"{one.path} and {two.path} have different numbers of rows of {_some(uneven)}, so "
            "their rows are not of the same tokens."
        )
    return (
        one.read(site, step=steps[0], example=wanted),
        two.read(site, step=steps[1], example=wanted),
    )


def _title(panel: dict[str, str]) -> str:
    return f"{panel['name']} {panel['version']} ({panel['sha256']:.12})"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
