"""Rows are those of the tokens that were chosen, or there are none."""

import peft
import pytest
import torch

from tests import tiny
from tests.activations.models import batch
from workbench.errors import ModelError
from workbench.positions import mean_kept
from workbench.recording import Recorder


@pytest.mark.parametrize("hole", [float("nan"), float("inf")])
def test_the_mean_takes_no_notice_of_what_is_not_kept(hole):
    """Padding may hold anything, such as attention over nothing."""
    keep = torch.tensor([[True, True, False], [False, False, True]])
    x = torch.arange(12.0).view(2, 3, 2)
    expected = torch.stack([x[0, :2].mean(0), x[1, 2]])
    assert torch.equal(mean_kept(x.masked_fill(~keep[:, :, None], hole), keep), expected)
    broken = x.masked_fill(keep[:, :, None], hole)
    assert not mean_kept(broken, keep).isfinite().any()


@pytest.mark.parametrize("positions", ["all", "mean_response"])
def test_a_prompt_that_peft_puts_before_the_texts_is_refused(tmp_path, positions):
    """Every position would be another one."""
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(tiny.llama(), config)
    with (
        pytest.raises(ModelError, match=r"\(3, 12, 32\) where the batch has 3 texts of 9 tokens"),
        Recorder(tmp_path / "r", [batch()], ["resid_post"], positions=positions) as recorder,
    ):
        recorder(model, 0)
