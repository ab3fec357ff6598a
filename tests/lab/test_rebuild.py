"""The shipped models are what the recipe makes: all of it, from nothing."""

import json

import pytest

from workbench.lab import build
from workbench.lab.checkpoints import SHIPPED


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_rebuild_measures_the_same(tmp_path):
    """Metrics, never bytes: another CPU rounds differently."""
    for made in build.build(tmp_path):
        manifest = json.loads((made / build.MANIFEST).read_text())
        shipped = json.loads((SHIPPED / made.name / build.MANIFEST).read_text())
        for key in ("recipe", "texts_sha256", "seeds"):
            assert manifest[key] == shipped[key]
        for name, promised in shipped["metrics"].items():
            value = manifest["metrics"][name]["value"]
            assert value == pytest.approx(promised["value"], abs=promised["tolerance"]), name
