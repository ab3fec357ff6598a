"""What probes print: whole words and numbers, however narrow the window."""

import io

import pytest
from rich.console import Console

from workbench.rows import EmbeddingDrift, TokenKL
from workbench.summary import summarise


def printed(rows, width):
    console = Console(file=io.StringIO(), width=width)
    summarise(rows, console)
    return console.file.getvalue()


def drift(layers):
    return [
        EmbeddingDrift(stage="defence", step=0, reference="base", example=f"{group}-{i}",
                       group=group, site="attn_module_out", positions="last_prompt",
                       measure=measure, values=[i + layer / 100 for layer in range(layers)])
        for group in ("hazard", "benign") for measure in ("relative_l2", "cosine_distance")
        for i in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_cut_off_and_layers_reach_from_first_to_last(width):
    text = printed(drift(32), width)
    assert "…" not in text and text.count("cosine_distance") == 2
    assert "0.5 " in text and text.splitlines()[-1].endswith("0.81")  # means of 0 and 1, + 31/100
    assert all(len(line) <= width for line in text.splitlines())


def test_of_positions_the_first_are_shown_and_short_answers_end():
    rows = [
        TokenKL(stage="defence", step=0, reference="base", example=str(n), group="hazard",
                measure="forward_kl", values=[1.0] * n)
        for n in (40, 2)
    ]  # fmt: skip
    text = printed(rows, 80)
    head = next(line for line in text.splitlines() if "group" in line)
    assert head.split()[:4] == ["group", "measure", "0", "1"] and " of 40" in text
    short = printed(rows[1:], 80)
    assert short.splitlines()[-1].split() == ["hazard", "forward_kl", "1", "1"]


def test_what_is_left_out_is_counted():
    rows = [
        TokenKL(stage="defence", step=0, reference=f"r{n}", example="a", group="hazard",
                measure="forward_kl", values=[1.0])
        for n in range(3)
    ]  # fmt: skip
    assert "more lines" not in printed(rows, 80)
    many = [
        EmbeddingDrift(stage="defence", step=0, reference="base", example="a", group="hazard",
                       site=f"site{n}", positions="last_prompt", measure="l2", values=[1.0])
        for n in range(30)
    ]  # fmt: skip
    assert "and 6 more lines" in printed(many, 80)
