"""One probe on two checkpoints or on a recording: same numbers, kept where figures find them."""

import json
import shutil
from io import StringIO

import pytest
import torch
from rich.console import Console

from tests import small, tiny
from tests.probes.texts import panel
from workbench import cli, tables
from workbench.errors import (
    InvalidValueError,
    MissingStreamError,
    ModelError,
    RecordingError,
    WorkbenchError,
)
from workbench.execution import conduct
from workbench.figures import figure, load
from workbench.models import save
from workbench.panel import Panel
from workbench.probes import At, Drift, VocabularyPass
from workbench.probing import probe_models
from workbench.recorded_probing import probe_recorded
from workbench.recording_manifest import load_manifest, save_manifest
from workbench.recordings import Recording
from workbench.rows import EmbeddingDrift, Prompt, TokenKL
from workbench.states import chosen, read_states, recorded_states
from workbench.store import Store
from workbench.study import open_domain
from workbench.tokens import require_same_tokens

QUIET = Console(quiet=True)
LAB = {"data": "lab", "prompts": 3}
STREAM = Drift(sites=("resid_post",))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A store with an undefended model attacked for three steps, recorded at 0 and 3."""
    store = Store(tmp_path_factory.mktemp("runs"))
    study = small.study(defences={})
    outcome = conduct(study, store, jobs=1)
    assert not outcome.failed
    return store, outcome.runs[-1]


def test_rows_are_kept_where_figures_draw_them(tmp_path):
    store = Store(tmp_path)
    for probe, name in ((VocabularyPass(), "vocabulary"), (Drift(), "drift")):
        for _ in range(2):
            probe_models(name, probe, "lab:aligned", "lab:base", **LAB, console=QUIET, out=tmp_path)
    # given again, nothing is made anew
    second, first = sorted(store.runs(), key=lambda run: run.probe["name"])
    assert first.probe["name"] == "vocabulary" and first.probe["reference"] == "lab:base"
    assert "message" in first.template and first.probe["prompts"] == 3
    assert len(store.read(TokenKL, [first])) and len(store.read(EmbeddingDrift, [second]))
    assert len(store.read(Prompt, [first]))
    kl = figure("kl_by_position")
    drawn = kl.draw(load(store, None, kl.needs))
    assert set(drawn.layout.meta["runs"]) == {first.id, second.id} and len(drawn.data)


def test_a_model_against_itself_shows_nothing():
    for probe, kind in ((VocabularyPass(), TokenKL), (Drift(), EmbeddingDrift)):
        rows = probe_models("x", probe, "lab:base", "lab:base", **LAB, console=QUIET)
        assert max(max(r.values) for r in rows if isinstance(r, kind)) == 0


def test_the_summary_names_groups_and_measures(capsys):
    probe_models("drift", Drift(), "lab:aligned", "lab:base", **LAB, console=Console(width=200))
    said = capsys.readouterr().out
    assert "embedding_drift" in said and "hazard" in said and "relative_l2" in said


def test_the_summary_counts_the_prompts_and_a_file_is_read_whole(tmp_path, capsys):
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"brew number {i}"}) + "\n" for i in range(40)))
    given = ("drift", Drift(), "lab:aligned", "lab:base")
    rows = probe_models(*given, data=str(file), console=Console(width=200))
    assert {r.example for r in rows if isinstance(r, EmbeddingDrift)} >= {
        q.id
        for q in Panel(open_domain(str(file), whole=True), None, "test", 40).questions("hazard")
    }
    assert "prompts: 40 hazard, whole file" in capsys.readouterr().out
    probe_models(*given, **LAB, console=Console(width=200))
    assert "prompts: 3 hazard, 3 benign, split test" in capsys.readouterr().out


@pytest.mark.parametrize("look", ["probe", "compare"])
def test_a_store_that_cannot_be_written_is_found_out_before_the_work(tmp_path, capsys, look):
    (tmp_path / "file").write_text("")
    names = ["drift", "--model"] if look == "probe" else []
    given = [look, *names, "lab:none", *(["--reference"] if names else []), "lab:base"]
    assert cli.main([*given, "-o", str(tmp_path / "file")]) != 0
    assert "is a file; a store is a folder" in capsys.readouterr().err


def test_a_reference_is_asked_for():
    with pytest.raises(InvalidValueError, match="--reference"):
        probe_models("drift", Drift(), "lab:base", None, **LAB, console=QUIET)


def test_recorded_states_are_those_of_the_live_model(attacked):
    store, run = attacked
    recording = Recording(store.folder(run.id) / "activations")
    study = small.study()
    from workbench.models import load as load_model

    start = load_model("lab:aligned")
    texts = Panel(study.domain(), start.tokenizer, size=study.measures.panel)
    live = read_states(start.model, texts.batch("hazard"))
    stored = chosen(recorded_states(recording, 0), live.examples)
    assert stored.layers == live.layers and stored.lengths == live.lengths
    assert (stored.values - live.values).abs().max() <= 2**-8 * live.values.abs().max()  # bf16


def test_a_recording_is_looked_at_later(attacked, tmp_path):
    store, run = attacked
    rows = probe_recorded("drift", STREAM, store.folder(run.id), QUIET, out=tmp_path)
    assert {r.step for r in rows} == {0, 3}
    assert not any(any(r.values) for r in rows if r.step == 0)
    live = store.read(EmbeddingDrift, [run]).query(
        "step == 3 and site == 'resid_post' and measure == 'relative_l2'"
    )
    live = {row.example: row["values"] for _, row in live.iterrows()}
    later = [r for r in rows if r.step == 3 and r.measure == "relative_l2"]
    assert len(later) == len(live) == 4
    for row in later:
        assert row.values == pytest.approx(live[row.example], abs=0.02)  # bf16 on the disk
    (kept,) = Store(tmp_path).runs()
    assert (kept.arm, kept.attack, kept.probe["name"]) == (run.arm, run.attack, "drift")
    assert (
        Store(tmp_path)
        .read(EmbeddingDrift)
        .equals(tables.frame(EmbeddingDrift, [(kept.id, tables.table(rows))]))
    )


@pytest.fixture(scope="module")
def immunised(tmp_path_factory):
    """A store with the lab's base model immunised for four steps, recorded at 0 and 4."""
    store = Store(tmp_path_factory.mktemp("runs"))
    study = small.study(attacks={}, undefended=False, controls=False)
    outcome = conduct(study, store, jobs=1)
    assert not outcome.failed
    return store, outcome.runs[-1]


def test_what_a_defence_recorded_is_what_was_seen_live(immunised):
    store, run = immunised
    wanted = "site == 'resid_post' and measure == 'relative_l2'"
    live = store.read(EmbeddingDrift, [run]).query(wanted)
    assert set(live["reference"]) == {"base"} and set(live["step"]) == {4}
    rows = probe_recorded("drift", STREAM, store.folder(run.id), QUIET)
    assert {(r.stage, r.reference, r.step) for r in rows} == {
        ("defence", "base", step) for step in (0, 4)
    }
    then = {r.example: r.values for r in rows if r.step == 4 and r.measure == "relative_l2"}
    assert then.keys() == set(live["example"])
    for _, row in live.iterrows():
        assert then[row["example"]] == pytest.approx(row["values"], abs=0.02)  # bf16 on the disk


def test_a_defence_that_begins_elsewhere_is_compared_with_its_start(immunised, tmp_path):
    store, run = immunised
    folder = shutil.copytree(store.folder(run.id), tmp_path / run.id)
    header = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(header | {"model": "lab:aligned"}))
    rows = probe_recorded("drift", STREAM, folder, QUIET)
    assert {r.reference for r in rows} == {"start"}


def test_a_torn_recording_says_so_and_is_not_taken_for_the_whole(attacked, tmp_path):
    store, run = attacked
    folder = shutil.copytree(store.folder(run.id), tmp_path / run.id)
    said, kept = StringIO(), tmp_path / "kept"
    for complete in (False, True):
        manifest = load_manifest(folder / "activations")
        manifest.complete = complete
        save_manifest(folder / "activations", manifest)
        probe_recorded("drift", STREAM, folder, Console(file=said, width=200), out=kept)
    assert said.getvalue().count("Its writer stopped before it was done") == 1
    torn, whole = sorted(Store(kept).runs(), key=lambda run: run.probe["recording"]["complete"])
    assert torn.probe["recording"] == {"steps": [0, 3], "complete": False}
    assert torn.id != whole.id and "already there" not in said.getvalue()


def test_a_recording_that_no_run_made_is_named(attacked):
    store, run = attacked
    alone = store.folder(run.id) / "activations"
    with pytest.raises(RecordingError, match="a recording, not the folder of a run"):
        probe_recorded("drift", STREAM, alone, QUIET)


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        (VocabularyPass(), "needs more of a checkpoint .* head, weights or gradients"),
        (Drift(positions="response"), "--positions"),
        (Drift(sites=("attn_out",)), "holds no site 'attn_out'"),
    ],
)
def test_what_a_recording_cannot_tell(attacked, probe, says):
    store, run = attacked
    with pytest.raises(WorkbenchError, match=says):
        probe_recorded("x", probe, store.folder(run.id), QUIET)


def test_tokenizers_that_differ_are_told_by_their_ids(tmp_path):
    one, two = tiny.tokenizer(), tiny.tokenizer()
    require_same_tokens(one, two, "a", "b")
    two.add_tokens(["quagga"])
    with pytest.raises(InvalidValueError, match="a and b have different tokens at 1 ids: 320 is"):
        require_same_tokens(one, two, "a", "b")
    other = tiny.tokenizer("{{ messages[0]['content'] }}")
    with pytest.raises(InvalidValueError, match="different chat templates"):
        require_same_tokens(one, other, "a", "b")
    for name, tokenizer in (("a", one), ("b", two)):
        save(tiny.llama(vocab_size=400), tokenizer, tmp_path / name)
    with pytest.raises(InvalidValueError, match="'quagga'"):
        probe_models("drift", Drift(), str(tmp_path / "a"), str(tmp_path / "b"),
                     **LAB, console=QUIET)  # fmt: skip


def test_a_base_without_a_template_reads_that_of_the_aligned_model(tmp_path):
    save(tiny.llama(0, max_position_embeddings=256), tiny.tokenizer(), tmp_path / "aligned")
    save(
        tiny.llama(1, max_position_embeddings=256),
        tiny.tokenizer(chat_template=None),
        tmp_path / "base",
    )
    given = [str(tmp_path / "aligned"), str(tmp_path / "base")]
    assert probe_models("drift", Drift(), *given, **LAB, console=QUIET)
    with pytest.raises(WorkbenchError, match="chat template"):
        probe_models("drift", Drift(), *given[::-1], **LAB, console=QUIET)
    assert probe_models("drift", Drift(), *given[::-1], **LAB, console=QUIET, template="plain")


def test_panels_have_refused_and_framed_texts_of_the_same_requests():
    domain = small.study().domain()
    from workbench.models import load as load_model

    texts = Panel(domain, load_model("lab:aligned").tokenizer, size=4)
    hazards, refused, framed = (texts.questions(g) for g in ("hazard", "refused", "framed"))
    for h, r, f in zip(hazards, refused, framed, strict=True):
        assert r.prompt == h.prompt != f.prompt and r.answer != h.answer
        assert domain.judge(h, r.answer).refused and domain.judge(h, h.answer).success
        assert domain.judge(f, f.answer).success and f.id.split("#")[0] == h.id.split("#")[0]
    with pytest.raises(InvalidValueError, match="at least one prompt"):
        Panel(domain, None, size=0)


def test_files_have_refusals_only_where_they_are_given(tmp_path):
    from workbench.file_domain import FileDomain

    rows = "".join(f'{{"prompt": "ask {i}", "response": "word {i}"}}\n' for i in range(40))
    (tmp_path / "harmful.jsonl").write_text(rows)
    domain = FileDomain.open(tmp_path)
    framed = domain.texts("test", "framed")
    assert framed and all("ask" in q.prompt and "story" in q.prompt for q in framed)
    with pytest.raises(MissingStreamError, match="have no refusal"):
        domain.texts("test", "refused")
    (tmp_path / "refusal.jsonl").write_text(rows.replace("word", "no"))
    answers = [q.answer for q in FileDomain.open(tmp_path).texts("test", "refused")]
    assert answers and all(a.startswith("no ") for a in answers)


def test_states_need_the_same_tokens():
    texts = panel()
    a = read_states(tiny.llama(), texts.batch("hazard"))
    b = read_states(tiny.llama(), texts.batch("benign"))
    with pytest.raises(InvalidValueError, match="differ in their examples"):
        a.require_like(b)
    with pytest.raises(InvalidValueError, match="no states of nobody"):
        chosen(a, ("nobody",))


def test_a_response_beyond_the_context_is_named():
    texts = panel()
    with pytest.raises(InvalidValueError, match="context of 16"):
        read_states(tiny.llama(max_position_embeddings=16), texts.batch("hazard"))


def test_models_that_overflow_are_refused():
    texts = panel()
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(WorkbenchError, match=r"not finite at blocks\.1"):
        Drift().against(model, texts)(model, At("attack", 0, "itself"))


def test_of_several_templates_the_default_one_is_used(tmp_path):
    several = tiny.tokenizer()
    several.chat_template = {"default": tiny.CHAT_TEMPLATE, "tool_use": "{{ tools }}"}
    for seed, tokenizer in enumerate((several, tiny.tokenizer())):
        save(tiny.llama(seed, max_position_embeddings=512), tokenizer, tmp_path / str(seed))
    given = ["probe", "drift", "--data", "builtin", "--prompts", "2"]
    names = [str(tmp_path / "0"), str(tmp_path / "1")]
    for i, (one, other) in enumerate((names, names[::-1])):
        out = tmp_path / f"out{i}"
        assert cli.main([*given, "--model", one, "--reference", other, "-o", str(out)]) == 0
        (run,) = Store(out).runs()
        assert run.template == tiny.CHAT_TEMPLATE


def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path):
    broken = tiny.llama(max_position_embeddings=512)
    with torch.no_grad():
        broken.lm_head.weight[3] = float("inf")
    save(broken, tiny.tokenizer(), tmp_path / "broken")
    save(tiny.llama(1, max_position_embeddings=512), tiny.tokenizer(), tmp_path / "sound")
    names = [str(tmp_path / "broken"), str(tmp_path / "sound")]
    for one, other in (names, names[::-1]):
        with pytest.raises(ModelError, match=r"broken: weights are not finite: lm_head\.weight"):
            probe_models("drift", Drift(), one, other, "builtin", QUIET, prompts=2)
