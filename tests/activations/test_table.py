"""The table of families in docs/views.md says what the code does. `--write` makes it anew."""

import sys
from pathlib import Path

from tests.activations.families import CONFIGS, FLAT, PARALLEL, RECURRENT, SCALED
from tests.activations.test_views import COPIED, UNKNOWN

DOCUMENT = Path(__file__).parents[2] / "docs" / "views.md"
MARKS = "<!-- families -->\n", "<!-- /families -->\n"
KINDS = (
    ("attention and MLP one after the other", "all", "", {*CONFIGS} - PARALLEL - SCALED - FLAT),
    ("parallel blocks", "all but `resid_mid`", "no stream lies between the two", PARALLEL),
    ("scaled residuals", "all but `attn_out`, `mlp_out`",
     "the block adds 0.22 (say) times what the modules give", SCALED),
    ("OPT", "all but `resid_mid`, `mlp_out`, `mlp_module_out`",
     "its MLP is no module and works on flattened tokens", FLAT),
    ("recurrent", "`hook_embed`, `resid_pre`, `resid_post`, `ln_final`",
     "no attention, no MLP", {*RECURRENT}),
)  # fmt: skip


def table():
    """Rows of Markdown, one a kind of block."""
    lines = ["| blocks | sites | why | families |", "|---|---|---|---|"]
    for kind, sites, why, families in KINDS:
        named = ", ".join(f"{name}{'†' * (name in COPIED | UNKNOWN)}" for name in sorted(families))
        lines.append(f"| {kind} | {sites} | {why} | {named} |")
    note = "† no TransformerLens view, or only a snapshot: see below."
    return "\n".join([*lines, "", note, ""])


def test_the_table_is_that_of_the_code():
    text = DOCUMENT.read_text()
    assert MARKS[0] + table() + MARKS[1] in text


if __name__ == "__main__" and "--write" in sys.argv:
    before, rest = DOCUMENT.read_text().split(MARKS[0])
    DOCUMENT.write_text(before + MARKS[0] + table() + MARKS[1] + rest.split(MARKS[1])[1])
