"""`workbench record`: any model, any file, the same bytes by one process or two, or a clear no."""

import json
import multiprocessing
import random
import shutil
import time
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import numpy as np
import peft
import pytest
import torch
from safetensors import safe_open

from tests import tiny
from tests.test_recording_faults import require_same_files
from workbench import cli, model_files, models, recording_plan
from workbench.activations import HookedLM
from workbench.data import Example, encode
from workbench.errors import (
    InvalidValueError,
    ModelError,
    RecordingError,
    SiteError,
    UnknownNameError,
    WorkbenchWarning,
)
from workbench.models import load, save
from workbench.panel_recording import record_part, record_texts
from workbench.positions import Mask
from workbench.prompt_sets import PromptSet, Text
from workbench.recording_plan import Plan
from workbench.recordings import Recording

SITES = ("resid_post", "attn_out.1", "embed")
N = 21


def texts(n=N):
    made = tiny.examples(n)
    words = " ".join(tiny.TEXT).split()
    return PromptSet(
        "boats",
        "1",
        tuple(
            Text(x.id, x.prompt, " ".join(words[i : i + 2 + i % 5]), "benign")
            for i, x in enumerate(made)
        ),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "llama"
    save(tiny.llama(num_hidden_layers=3), tiny.tokenizer(), folder)
    return str(folder)


def plan(start, **more):
    return Plan(**{"texts": texts(), "model": start, "sites": SITES, "batch_size": 4} | more)


def even(x):
    return x.attention_mask & (torch.arange(x.attention_mask.shape[1]) % 2 == 0)


@pytest.mark.parametrize(
    "positions", ["last_prompt", "response", "response:3", "mean_response", "all", Mask("e", even)]
)
def test_rows_are_the_models_activations(model, tmp_path, positions):
    """Against one text at a time, recorded whole and cut afterwards."""
    recording = record_texts(plan(model, positions=positions, dtype="fp32"), tmp_path / "r")
    assert recording.examples == tuple(text.id for text in texts().texts)
    assert recording.manifest.positions == str(positions)
    lm, tokenizer = HookedLM(tiny.llama(num_hidden_layers=3)), tiny.tokenizer()
    for text in texts().texts[::4]:
        one = encode(tokenizer, [Example(text.id, text.prompt, text.response)])
        with torch.no_grad(), lm.record(*SITES) as acts:
            lm(one)
        first = int(one.response_mask[0].nonzero()[0])
        pick = {
            "last_prompt": lambda x, first=first: x[first - 1 : first],
            "response": lambda x, first=first: x[first:],
            "response:3": lambda x, first=first: x[first : first + 3],
            "mean_response": lambda x, first=first: x[first:].mean(0, keepdim=True),
            "all": lambda x: x,
            "mask:e": lambda x: x[::2],
        }[str(positions)]
        assert set(recording.sites) == set(acts)
        for site, x in acts.items():
            read = recording.read(site, step=0, example=text.id)
            np.testing.assert_allclose(read, pick(x[0]).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_one_process_and_two_give_the_same_bytes(model, tmp_path):
    made = plan(model, positions="response")
    seen = []
    record_texts(made, tmp_path / "one", progress=lambda *x: seen.append(x))
    assert seen[-1] == (6, 6)
    record_texts(made, tmp_path / "two", workers=2, progress=lambda *x: seen.append(x))
    assert seen[-1] == (6, 6)
    require_same_files(tmp_path / "one", tmp_path / "two")
    assert Recording(tmp_path / "two").manifest.complete
    assert {path.name for path in (tmp_path / "two").glob(".*")} == {".writer"}


class Stop(Exception):  # noqa: N818
    """Somebody pulled the plug."""


def stop_at(n, done, total):
    if done == n:
        raise Stop


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_it_goes_on_where_it_was_stopped(model, tmp_path, workers, monkeypatch):
    monkeypatch.setattr(recording_plan, "FLUSH_SECONDS", 0.0)
    made = plan(model, positions="all")
    record_texts(made, tmp_path / "whole")
    for n in (1, 3):
        with pytest.raises(Stop):
            record_texts(made, tmp_path / "torn", progress=partial(stop_at, n))
        with pytest.warns(WorkbenchWarning, match="stopped before it was done"):
            torn = Recording(tmp_path / "torn")
        assert len(torn.manifest.entries) >= n - 1 and not torn.manifest.complete
        torn.verify()
    said = []
    record_texts(made, tmp_path / "torn", workers=workers, say=said.append)
    require_same_files(tmp_path / "whole", tmp_path / "torn")
    assert said[0].startswith("5 sites x 1 steps x")
    again = []
    record_texts(made, tmp_path / "torn", workers=workers, progress=lambda *x: again.append(x))
    assert not again  # nothing was left to do
    require_same_files(tmp_path / "whole", tmp_path / "torn")


def record_here(start, folder, workers, begun):
    """A recording in a process that will be killed."""
    torch.set_num_threads(1)
    recording_plan.FLUSH_SECONDS = 0.0
    begun.value = 1
    record_texts(plan(start, batch_size=1, positions="all"), folder, workers=workers)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills"), [(1, 6), (2, 2)])
def test_killed_and_given_again(model, tmp_path, workers, kills):
    """Kill -9 of the whole command, or of its parent, wherever it is; then to the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_panel_recording"])
    draw, interrupted = random.Random(workers), 0
    record_texts(plan(model, batch_size=1, positions="all"), tmp_path / "whole")
    for kill in range(kills):
        begun = context.Value("i", 0)
        given = (model, str(tmp_path / "r"), workers, begun)
        process = context.Process(target=record_here, args=given)
        process.start()
        while not begun.value and process.is_alive():
            time.sleep(0.01)
        if kill == 0:  # as soon as there is something to interrupt
            first = "manifest.json" if workers == 1 else ".parts-*/*/manifest.json"
            while not list((tmp_path / "r").glob(first)) and process.is_alive():
                time.sleep(0.001)
        else:
            process.join(draw.uniform(0.1, 1.0) * workers)
        process.kill()
        process.join()
        if (tmp_path / "r" / "manifest.json").exists():
            torn = Recording(tmp_path / "r", warn=False)
            torn.verify()
            interrupted += not torn.manifest.complete
    assert interrupted  # at least one came in the middle
    record_texts(plan(model, batch_size=1, positions="all"), tmp_path / "r", workers=workers)
    require_same_files(tmp_path / "whole", tmp_path / "r")
    assert {path.name for path in (tmp_path / "r").glob(".*")} == {".writer"}


def test_parts_of_workers_that_were_killed_do_not_stay(model, tmp_path):
    """Whoever continues, alone as well."""
    left = tmp_path / "r" / ".parts-1" / "00000000-00000002"
    record_texts(plan(model), tmp_path / "r")
    shutil.copytree(tmp_path / "r", left)
    record_texts(plan(model), tmp_path / "r")
    assert {path.name for path in (tmp_path / "r").glob(".*")} == {".writer"}
    with pytest.raises(FileNotFoundError):  # a worker who outlived them does not bring them back
        record_part(plan(model), left)


def test_a_process_reads_a_models_weights_once_while_its_files_stay(model, tmp_path, monkeypatch):
    """Parts are small and a checkpoint is large."""
    monkeypatch.setattr(recording_plan, "load", loads := Mock(wraps=load))
    reads = Mock(wraps=model_files.weights_digest)
    for module in (models, model_files):
        monkeypatch.setattr(module, "weights_digest", reads)
    start, embed = shutil.copytree(model, tmp_path / "start"), ("embed",)
    recording_plan.loaded_model.cache_clear()
    for i in range(3):
        record_part(plan(str(start), sites=embed), tmp_path / f"{2 * i:08}-{2 * i + 2:08}")
    assert loads.call_count == reads.call_count == 1
    spoil(start, "model.layers.0.mlp.down_proj.weight")
    with pytest.raises(InvalidValueError, match="not finite"):
        record_part(plan(str(start), sites=("resid_post",)), tmp_path / "00000000-00000001")
    assert loads.call_count == reads.call_count == 2
    recording_plan.loaded_model.cache_clear()


def test_an_adapters_base_is_one_of_its_files(model, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": model}))
    own, *base = recording_plan.file_states(str(tmp_path))
    assert own[0].endswith("adapter_config.json")
    assert base == list(recording_plan.file_states(model))
    for config in ('{"base_model_name_or_path": "no/where"}', '{"base_model_name_or_path": 5}', "[",
                   "{}"):  # fmt: skip
        (tmp_path / "adapter_config.json").write_text(config)
        assert len(recording_plan.file_states(str(tmp_path))) == 1  # `load` says what is wrong


@pytest.mark.slow
def test_an_error_in_a_worker_is_said_here(model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    spoil(broken, "model.layers.2.mlp.down_proj.weight")
    with pytest.raises(
        RecordingError, match=r"blocks\.2\.hook_resid_post is not finite in example"
    ):
        record_texts(plan(str(broken), sites=("resid_post",)), tmp_path / "r", workers=2)


def spoil(folder, name):
    """A weight that is not a number."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights[name][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_activations_that_are_not_finite_are_refused(model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    spoil(broken, "model.layers.1.mlp.down_proj.weight")
    with pytest.raises(InvalidValueError, match=r"blocks\.1\.hook_resid_post is not finite .*'e0'"):
        record_texts(plan(str(broken), sites=("resid_post",)), tmp_path / "r")


def test_the_estimate_is_exact_and_comes_first(model, tmp_path):
    said = []
    recording = record_texts(plan(model, positions="all"), tmp_path / "r", say=said.append)
    assert recording.manifest.panel["sha256"] == texts().sha256
    tokenizer = tiny.tokenizer()
    tokens = encode(tokenizer, [Example(t.id, t.prompt, t.response) for t in texts().texts]).tokens
    on_disk = sum(path.stat().st_size for path in (tmp_path / "r").glob("*.safetensors"))
    assert said == [
        f"5 sites x 1 steps x {tokens} rows ({N} examples) of 32 numbers in bf16: "
        f"{on_disk / 1000:.1f} kB"
    ]
    size = 5 * tokens * 32 * 2
    with pytest.raises(
        InvalidValueError, match=f"{size} bytes of activations.* fewer sites, other"
    ):
        record_texts(plan(model, positions="all"), tmp_path / "no", max_bytes=size - 1)
    assert not (tmp_path / "no").exists()
    record_texts(plan(model, positions="all"), tmp_path / "yes", max_bytes=size)


def test_a_disk_without_room_is_refused_before_anything_is_written(model, tmp_path, monkeypatch):
    free = type("usage", (), {"free": 1000})
    monkeypatch.setattr("workbench.recording_budget.shutil.disk_usage", lambda path: free)
    with pytest.raises(InvalidValueError, match=r"only 1.0 kB are free at"):
        record_texts(plan(model), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_upper_blocks_and_head_are_not_run(model, tmp_path):
    opened = recording_plan.Opened(plan(model, sites=("resid_post.0",)), load(model))
    assert opened._depth == 1
    ran = []
    for i, block in enumerate(opened.lm.parts.blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    with opened.writer(tmp_path) as writer:
        list(opened.record(writer, opened.plan.batches))
    assert set(ran) == {0}
    for sites, depth in ((("embed",), 1), (("resid_post",), 3), (("ln_final",), None)):
        assert recording_plan.Opened(plan(model, sites=sites), opened.loaded)._depth == depth


def test_an_adapter_directory(model, tmp_path):
    base = tiny.llama(num_hidden_layers=3)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, config)
    adapted.peft_config["default"].base_model_name_or_path = model
    save(adapted, tiny.tokenizer(), tmp_path / "adapter")
    with_it = record_texts(plan(str(tmp_path / "adapter")), tmp_path / "with")
    without = record_texts(plan(model), tmp_path / "without")
    assert with_it.sites == without.sites and with_it.manifest.model != without.manifest.model
    one, two = (r.read("blocks.2.hook_resid_post", step=0) for r in (with_it, without))
    assert np.abs(one - two).max() > 0.01


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sites": ("resid_pots",)}, SiteError, "Did you mean 'resid_post'"),
        ({"positions": "last"}, UnknownNameError, "no choice of positions called 'last'"),
        ({"positions": "response:0"}, UnknownNameError, "response:5"),
        ({"batch_size": 0}, InvalidValueError, "batch_size must be at least 1"),
        ({"sites": ()}, InvalidValueError, "no sites were given"),
        ({"model": "nowhere/nothing"}, UnknownNameError, "no model called"),
        ({"template": "no such"}, UnknownNameError, "no chat template"),
        (
            {"positions": Mask("m", lambda x: x.input_ids)},
            InvalidValueError,
            "'m' gave torch.int64",
        ),
        ({"positions": Mask("m", lambda x: ~x.attention_mask)}, InvalidValueError, "no such token"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(model, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        record_texts(plan(model, **change), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_text_that_does_not_fit_is_named(model, tmp_path):
    long = PromptSet("long", "1", (Text("short", "hi", "ho"), Text("epic", "hi", "tide " * 200)))
    with pytest.raises(InvalidValueError, match=r"context of 128 tokens; 'epic' has"):
        record_texts(plan(model, texts=long), tmp_path / "r")
    cut = record_texts(plan(model, texts=long, positions="all", max_length=50), tmp_path / "cut")
    assert cut.lengths(0)["epic"] == 50


def test_texts_without_response_have_no_response_to_record(model, tmp_path):
    mute = PromptSet("mute", "1", (Text("a", "hi"), Text("b", "why")))
    with pytest.raises(InvalidValueError, match="2 texts have no response, the first is 'a'"):
        plan(model, texts=mute, positions="response:2")
    record_texts(plan(model, texts=mute, positions="prompt"), tmp_path / "r")


def test_what_was_begun_otherwise_is_not_continued(model, tmp_path, monkeypatch):
    monkeypatch.setattr(recording_plan, "FLUSH_SECONDS", 0.0)
    with pytest.raises(Stop):
        record_texts(plan(model), tmp_path / "r", progress=partial(stop_at, 2))
    for change, message in (
        ({"batch_size": 3}, "another batch size"),
        ({"dtype": "fp32"}, "its dtype is 'bf16', not 'fp32'"),
        ({"texts": replace(texts(), texts=texts().texts[:-1])}, "its panel is 'boats 1"),
        ({"sites": ("resid_post",)}, "it records blocks.1.hook_attn_out, hook_embed; asked for"),
    ):
        with pytest.raises(RecordingError, match=message):
            record_texts(plan(model, **change), tmp_path / "r")


def test_an_unknown_architecture(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    folder = tmp_path / "resnet"
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])
    ResNetForImageClassification(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="not a causal"):
        record_texts(plan(str(folder)), tmp_path / "r")


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "boats.jsonl"
    rows = [{"prompt": t.prompt, "response": t.response} for t in texts().texts]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_command(model, data, tmp_path, capsys):
    given = ["--data", str(data), "--sites", "resid_post.1", "--positions", "response:2"]
    assert cli.main(["record", model, *given, "-o", str(tmp_path / "r")]) == 0
    first, second, *files = capsys.readouterr().out.splitlines()
    assert first.startswith("Panel boats 1 (") and first.endswith(f": {N} texts")
    assert second.endswith("(at most 10.0 GB allowed)") and "1 sites x 1 steps" in second
    assert [line.split()[0].rsplit("/")[-1] for line in files] == [
        "blocks.1.hook_resid_post.safetensors",
        "manifest.json",
    ]
    with safe_open(tmp_path / "r" / "blocks.1.hook_resid_post.safetensors", "pt") as file:
        offsets = file.get_tensor("offsets")
        assert file.get_tensor("acts").shape == (int(offsets[-1]), 32) and len(offsets) == N + 1
    assert Recording(tmp_path / "r").examples[0] == "boats-0"


@pytest.mark.parametrize(
    ("more", "content", "message"),
    [
        (["--max-bytes", "lots"], None, "'lots' is no number of bytes"),
        (["--max-bytes", "1kB"], None, "more than the 1.0 kB allowed"),
        (["--positions", "somewhere"], None, "no choice of positions called 'somewhere'"),
        (["--group", "sort"], None, "no column called 'sort'"),
        (["--workers", "0"], None, "workers must be at least 1"),
        (["--sites"], None, "no sites were given"),
        (
            ["--data", "lab", "--name", "n", "--version", "2"],
            None,
            "lab has a name, a version and columns of its own, so name='n', version='2' would",
        ),
        (["--data", "lab", "--response", ""], None, "so response='' would have no effect"),
        ([], "", "holds no rows"),
        ([], '{"a": "x", "b": "y"}', "no column of prompts among a, b"),
        ([], '{"prompt": "x", "response": ""}', "its response is ''; expected text"),
        ([], '{"prompt": ', "cannot be read as jsonl"),
        (["--data", "/nowhere.csv"], None, "there is no file '/nowhere.csv'"),
        (["--data", "."], None, "is a folder; give one .csv"),
        (["-o", __file__], None, "is a file. A recording is a folder"),
    ],
)
def test_mistakes_end_in_one_line(model, data, tmp_path, capsys, more, content, message):
    if content is not None:
        data.write_text(content)
    given = ["--data", str(data), "-o", str(tmp_path / "r"), *more]
    assert cli.main(["record", model, *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_a_saved_panel_has_its_own_name(model, tmp_path, capsys):
    texts().save(tmp_path / "set.json")
    given = ["record", model, "--data", str(tmp_path / "set.json"), "-o", str(tmp_path / "r")]
    assert cli.main([*given, "--group", "kind"]) == 2
    assert "so group='kind' would have no effect" in capsys.readouterr().err
    assert cli.main(given) == 0
    assert Recording(tmp_path / "r").manifest.panel == texts().identity


def test_a_folder_that_holds_other_things(model, data, tmp_path, capsys):
    assert cli.main(["record", model, "--data", str(data), "-o", str(tmp_path)]) == 2
    assert "is not empty and holds no recording: boats.jsonl" in capsys.readouterr().err
