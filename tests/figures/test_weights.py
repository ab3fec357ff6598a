"""What the figure of the weights says of its checkpoint and of directions."""

from dataclasses import replace

from tests.figures.invented import weights
from tests.figures.stores import header, store, write
from workbench.figures import FIGURES, load
from workbench.rows import WeightChange

FIGURE = FIGURES["weight_change"]


def test_the_caption_names_the_checkpoint_and_its_step(frames):
    released, attacked = (
        FIGURE.draw(frames, {"checkpoint": checkpoint}).layout.meta["caption"]
        for checkpoint in ("released", "attacked")
    )
    assert "released models against base" in released
    assert "attack step 64 against base" in attacked
    assert "angle to the change of aligned" in released and "no direction" not in released


def test_without_an_angle_the_caption_says_that_there_is_no_direction(tmp_path):
    rows = [
        replace(row, beside="") for row in weights.rows("defence", 9, 0, "tar")
        if row.measure not in ("angle", "by_chance", "kept")
    ]  # fmt: skip
    made = store(tmp_path, {}, ())
    write(made, header("tar-s0", "immunise", "tar", 0, {"name": "tar"}), rows, (WeightChange,))
    caption = FIGURE.draw(load(made, None, FIGURE.needs)).layout.meta["caption"]
    assert "no direction: no angle to another change is stored" in caption
