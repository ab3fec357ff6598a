"""Copies from a GPU on a stream of their own are the copies that one waits for."""

import pytest
import torch

from tests import tiny
from tests.activations.models import batch
from workbench.activations import HookedLM
from workbench.host_copies import HostCopies
from workbench.kept_rows import KeptRows
from workbench.recording import Recorder
from workbench.recordings import Recording


def test_rows_on_the_host_are_taken_as_they_are():
    """Part of a model may be kept there."""
    copies, rows = HostCopies(), torch.randn(3, 4)
    assert copies.take("s", rows).numel() == 0
    assert torch.equal(copies.wait()["s"], rows)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("positions", ["all", "response:2", "mean_response"])
def test_side_stream_equals_waiting(tmp_path, positions, dtype):
    model = tiny.llama(num_hidden_layers=12).cuda()
    lm = HookedLM(model)
    part, sites = KeptRows.of(batch(), positions), lm.sites
    for _ in range(20):  # memory is used again and again
        with torch.no_grad():
            rows = part.rows(lm, sites, dtype, lm)
            with lm.record(*sites, select=lambda x, _: part._take(x)) as acts:
                lm(part.batch)
        for site in sites:
            assert rows[site].device.type == "cpu"
            assert torch.equal(rows[site], acts[site].to("cpu", rows[site].dtype))


@pytest.mark.gpu
def test_a_gpu_records_what_a_cpu_does(tmp_path):
    for device in ("cpu", "cuda"):
        with Recorder(tmp_path / device, [batch()], ["*"], positions="all", dtype="fp32") as record:
            record(tiny.llama().to(device), 0)
    one, two = (Recording(tmp_path / device) for device in ("cpu", "cuda"))
    for site in one.sites:
        a, b = (torch.from_numpy(r.read(site, step=0)) for r in (one, two))
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
