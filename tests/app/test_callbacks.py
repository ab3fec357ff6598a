"""What the callbacks hand to the browser, asked for as the browser asks."""

import json

import pytest

from app import create_app
from app.pages import PAGES
from app.panels import defaults, redraws
from app.reading import Reader
from app.session import Session
from tests.app import stores
from workbench.figures import FIGURES
from workbench.rows import Metric

HOME = "127.0.0.1:8050"


class Page:
    """One app, asked as the browser asks."""

    def __init__(self, root):
        self.app = create_app(root, token=None)
        self.client = self.app.server.test_client()

    def ask(self, contains, inputs=(), state=(), changed=None):
        """The answer of the callback whose output contains a text."""
        callback = next(k for k in self.app.callback_map if contains in k)
        outputs = [_output(part) for part in callback.strip(".").split("...")]
        body = {
            "output": callback, "outputs": outputs if "..." in callback else outputs[0],
            "inputs": list(inputs), "state": list(state), "changedPropIds": changed or [],
        }  # fmt: skip
        headers = {"Host": HOME, "Origin": f"http://{HOME}"}
        answer = self.client.post("/_dash-update-component", json=body, headers=headers)
        assert answer.status_code in (200, 204), answer.text
        return answer.text


def _output(text):
    name, _, what = text.rpartition(".")
    return {"id": json.loads(name) if name.startswith("{") else name, "property": what}


def given(name, what, value):
    return {"id": name, "property": what, "value": value}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    stores.full(root, seeds=(0,))
    return Page(root)


def answers(page, prompt, revealed=None, query=""):
    return page.ask(
        "answers-body",
        [given("view", "data", query), given("answers-prompt", "value", prompt),
         given("revealed", "data", revealed)],
    )  # fmt: skip


def test_hazardous_text_stays_on_the_server_until_asked_for(page):
    assert stores.SECRET not in answers(page, "hazard-0")
    assert stores.SECRET not in answers(page, "hazard-0", revealed="benign-0")
    assert stores.SECRET in answers(page, "hazard-0", revealed="hazard-0")
    assert "tea" in answers(page, "benign-0")


def test_a_prompt_that_does_not_exist_is_said(page):
    assert "do not have this prompt" in answers(page, "<script>")


def test_answers_follow_the_attack_step(page):
    early = answers(page, "hazard-0", query="?step=8")
    assert "attacked, step 0: refused" in early
    assert "attacked, step 64: complied" in answers(page, "hazard-0")


def test_verdicts_name_every_arm(page):
    said = page.ask(
        "verdicts.children", [given("view", "data", "")], [given("verdicts-drawn", "data", None)]
    )
    for arm in ("undefended", "vaccine", "vaccine-control"):
        assert arm in said


def test_the_address_sets_the_controls_and_says_what_it_could_not(page):
    said = page.ask(
        "standard.data",
        [given("url", "href", f"http://{HOME}/?phi=0.3&compare=nobody&theme=dark&step=x")],
        [given("view", "data", None)],
    )
    answer = json.loads(said)["response"]
    assert answer["phi"]["value"] == 0.3 and answer["theme"]["data"] == "dark"
    assert answer["compare"]["value"] == [] and answer["baseline"]["value"] == "undefended"
    assert "nobody" in said and "whole number" in said


def test_walking_to_the_same_view_changes_no_control(page):
    said = page.ask(
        "standard.data",
        [given("url", "href", f"http://{HOME}/drift?phi=0.3")],
        [given("view", "data", "?phi=0.3")],
    )
    assert "0.3" not in said


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_its_cards(page, path):
    controls = [{"type": "control", "of": "phi"}]
    said = page.ask(
        "page.children",
        [given("url", "pathname", path), given("chosen", "data", ["undefended", [], "sft"])],
        [given("view", "data", ""), [given(controls[0], "id", controls[0])]],
    )
    assert "card" in said and "question" in said


def test_python_that_is_copied_draws_the_figure(page, tmp_path):
    stores.full(tmp_path, seeds=(0,))
    session = Session.open(Reader(tmp_path), "?phi=0.25&attack_budget.x=flops")
    figure = FIGURES["attack_budget"]
    params = session.params(figure, session.frames(figure.needs))
    code = redraws(figure, session, params)
    assert "phi=0.25" in code and "x='flops'" in code
    compile(code, "copied", "exec")
    drawn = {}
    exec(code.replace('run_figure("', 'figure = run_figure("').replace(".show()", ""), drawn)
    assert drawn["figure"].layout.meta["params"]["phi"] == 0.25


def test_panel_settings_of_the_address_reach_the_figure_and_bad_ones_are_said(tmp_path):
    stores.full(tmp_path, seeds=(0,))
    reader = Reader(tmp_path)
    figure = FIGURES["attack_budget"]
    good = Session.open(reader, "?attack_budget.log=true")
    assert good.params(figure, good.frames(figure.needs)).log is True
    for wrong in ("attack_budget.log=perhaps", "attack_budget.nothing=1"):
        bad = Session.open(reader, "?" + wrong)
        assert bad.params(figure, bad.frames(figure.needs)).log is False
        assert len(bad.notices) == 1 and "attack_budget" in bad.notices[0]


def test_a_step_nobody_measured_becomes_the_one_before(tmp_path):
    stores.full(tmp_path, seeds=(0,))
    figure = FIGURES["kl_by_position"]
    session = Session.open(Reader(tmp_path), "?step=20")
    assert session.params(figure, session.frames(figure.needs)).step == 16


def test_the_frontier_is_drawn_from_all_arms_of_the_store(tmp_path):
    stores.full(tmp_path, seeds=(0,))
    session = Session.open(Reader(tmp_path), "?baseline=vaccine&compare=")
    figure = FIGURES["frontier"]
    assert session.arms == ("vaccine",)
    table = figure.data(session.frames_of(figure), figure.given(None))
    assert set(table["arm"]) == {"undefended", "vaccine", "vaccine-control"}
    code = redraws(figure, session, figure.given(None))
    assert "vaccine-control-s0" in code and "undefended-s0" in code
    budget = FIGURES["attack_budget"]
    assert set(session.frames_of(budget)[Metric]["arm"]) == {"vaccine"}


def test_defaults_are_what_an_empty_address_gives():
    for figure in FIGURES.values():
        options = {k.split(".")[1]: v for k, v in defaults(figure).items()}
        assert figure.given(options) == figure.given(None)


def test_no_figure_needs_webgl(tmp_path):
    """The policy forbids `eval`, which WebGL traces need (docs/decisions/0006)."""
    stores.full(tmp_path, seeds=(0,))
    session = Session.open(Reader(tmp_path), "")
    for figure in FIGURES.values():
        frames = session.frames_of(figure)
        drawn = figure.draw(frames, session.params(figure, frames))
        kinds = {trace.type for trace in drawn.data}
        assert not kinds & {"surface", "mesh3d", "splom"}
        assert not [kind for kind in kinds if kind.endswith(("gl", "3d"))]
