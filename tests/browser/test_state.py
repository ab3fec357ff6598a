"""The address is the state, and verdicts move with the sliders."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.browser.conftest import card, playwright

expect = playwright.expect


def query(page):
    return parse_qs(urlsplit(page.url).query)


def move(page, name, key, times):
    thumb = page.locator(f"#{name} [role=slider]")
    thumb.focus()
    for _ in range(times):
        thumb.press(key)


def test_a_slider_judges_anew_and_writes_the_address(visit, full):
    watched = visit(full)
    page = watched.open()
    chip = page.locator("#matrix tbody tr").nth(0).locator(".chip").first
    expect(chip).to_contain_text("broken")
    thumb = page.locator("#phi [role=slider]")
    thumb.focus()
    thumb.press("End")
    expect(chip).to_contain_text("held")
    expect(page.locator("#sentences")).to_contain_text("held to")
    expect(page).to_have_url(re.compile("phi=1"))
    assert "token" not in page.url
    watched.picture("overview-phi-1")
    page.reload()
    watched.settled()
    expect(page.locator("#matrix .chip").first).to_contain_text("held")


def test_what_is_chosen_goes_along_to_other_pages_and_back(visit, full):
    watched = visit(full)
    page = watched.open(query="compare=vaccine&phi=0.3&theme=dark")
    page.get_by_role("link", name="Resistance").click()
    watched.settled()
    assert query(page) == {"compare": ["vaccine"], "phi": ["0.3"], "theme": ["dark"]}
    expect(card(page, "attack_budget")).to_contain_text("φ = 0.3")
    expect(card(page, "attack_budget")).not_to_contain_text("vaccine-control")
    move(page, "phi", "ArrowRight", 2)
    expect(card(page, "attack_budget")).to_contain_text("φ = 0.32")
    page.go_back()
    watched.settled()
    expect(page.locator("#matrix tbody tr")).to_have_count(2)
    assert urlsplit(page.url).path == "/" and query(page)["phi"] == ["0.3"]


def test_a_link_shows_somebody_else_the_same(visit, full):
    first, second = visit(full), visit(full)
    page = first.open("resistance", "baseline=vaccine&compare=undefended")
    page.get_by_role("textbox", name="budget in").click()
    page.get_by_role("option", name="flops").click()
    expect(page).to_have_url(re.compile(r"attack_budget\.x=flops"))
    move(page, "utility_floor", "ArrowLeft", 3)
    expect(page).to_have_url(re.compile(r"utility_floor=0\.77"))
    first.settled()
    other = second.open("resistance", urlsplit(page.url).query)
    expect(card(other, "attack_budget")).to_contain_text("FLOPs")
    expect(card(other, "attack_budget").locator(".provenance")).to_contain_text(
        "utility floor 0.77"
    )
    assert query(other) == query(page)


def test_arms_are_chosen_in_the_top_bar(visit, full):
    watched = visit(full)
    page = watched.open()
    page.locator("#compare").press("Backspace")
    expect(page.locator("#matrix tbody tr")).to_have_count(2)
    expect(page).to_have_url(re.compile("compare=vaccine$"))


def test_another_baseline_keeps_to_the_arms_that_were_chosen(visit, full):
    watched = visit(full)
    page = watched.open("drift")
    page.locator("#baseline").click()
    page.get_by_role("option", name="vaccine", exact=True).click()
    expect(page.locator(".compare .mantine-Pill-label")).to_have_text(["vaccine-control"])
    shown = card(page, "drift_by_layer").locator(".provenance")
    expect(shown).to_contain_text("· vaccine, vaccine-control")
    assert query(page) == {"baseline": ["vaccine"], "compare": ["vaccine-control"]}
    page.locator("#compare").click()
    expect(page.get_by_role("option")).to_have_text(["undefended"])
    page.get_by_role("option", name="undefended").click()
    expect(shown).to_contain_text("· vaccine, vaccine-control, undefended")
    watched.settled()
    assert query(page)["compare"] == ["vaccine-control", "undefended"]  # no default of anybody's


def test_arms_are_chosen_in_the_run_table(visit, full):
    watched = visit(full)
    page = watched.open()
    page.locator("#runs-open").click()
    page.get_by_label("filter runs").fill("vaccine-control")
    rows = page.locator(".ag-center-cols-container .ag-row")
    expect(rows).to_have_count(6)
    page.locator(
        ".ag-pinned-left-cols-container .ag-checkbox-input, .ag-selection-checkbox input"
    ).first.check()
    page.locator("#runs-compare").click()
    expect(page.locator("#matrix tbody tr")).to_have_count(2)
    expect(page.locator("#matrix")).to_contain_text("vaccine-control")


def test_the_theme_is_one_click_and_stays(visit, full):
    watched = visit(full)
    page = watched.open("drift")
    page.locator("#theme-toggle").click()
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    expect(page).to_have_url(re.compile("theme=dark"))
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    watched.settled()


@pytest.mark.parametrize(
    "asked, said",
    [("phi=7", "between 0 and 1"), ("baseline=undefnded", "Did you mean 'undefended'?"),
     ("attack_budget.x=miles", "attack_budget")],
)  # fmt: skip
def test_an_address_that_cannot_be_is_said_and_mended(visit, full, asked, said):
    page = visit(full).open(query=asked)
    expect(page.locator("#notices")).to_contain_text(said)


@pytest.mark.parametrize("step", [1, 64, 200])
def test_an_asked_step_stays_in_the_address_through_pages(visit, full, step):
    watched = visit(full)
    page = watched.open("tokens", f"step={step}")
    assert query(page) == {"step": [str(step)]}
    for label in ("Overview", "Drift", "Tokens"):
        page.get_by_role("link", name=label, exact=True).click()
        expect(page.get_by_role("link", name=label, exact=True)).to_have_attribute(
            "data-active", "true"
        )
        watched.settled()
        assert query(page) == {"step": [str(step)]}


def test_the_last_step_wherever_it_is_needs_no_number(visit, full):
    watched = visit(full)
    page = watched.open("tokens", "step=8")
    move(page, "step", "End", 1)
    expect(page).to_have_url(re.compile("tokens$"))
    watched.settled()


def test_visiting_the_tokens_chooses_no_prompt_and_choosing_one_does(visit, full):
    watched = visit(full)
    page = watched.open("tokens")
    assert query(page) == {}
    page.locator("#answers-prompt").click()
    page.get_by_role("option", name="benign-0").click()
    expect(page).to_have_url(re.compile("prompt=benign-0"))
    page.get_by_role("link", name="Layers", exact=True).click()
    told = card(page, "cosine_map")
    expect(told.locator(".refused")).to_contain_text("'benign-0' is not among the 2")
    expect(told.locator(".provenance")).to_contain_text("prompt hazard-0")
    expect(told.locator(".lacking")).to_have_count(0)
    page.get_by_role("link", name="Tokens", exact=True).click()
    page.locator("#answers-prompt").click()
    page.get_by_role("option", name="hazard-0").click()
    expect(page).to_have_url(re.compile("prompt=hazard-0"))
    watched.settled()


@pytest.mark.parametrize("path", ["tokens", "layers", "drift", "training", "reinforcement"])
def test_touching_the_fields_of_a_page_changes_nothing(visit, full, path):
    watched = visit(full)
    page = watched.open(path)
    fields = page.locator(".settings .mantine-NumberInput-input")
    before = [field.input_value() for field in fields.all()]
    for field in fields.all():
        field.focus()
        field.press("Tab")
    watched.settled()
    assert [field.input_value() for field in fields.all()] == before
    assert query(page) == {}


def test_a_panel_says_itself_what_it_cannot_do_and_does_the_rest(visit, full):
    page = visit(full).open("tokens", "token_movers.no=1&token_movers.group=benign")
    told = card(page, "token_movers")
    expect(told.locator(".refused")).to_contain_text("no parameter of token_movers called 'no'")
    expect(told.locator(".provenance")).to_contain_text("benign prompts")


def test_an_emptied_limit_is_none(visit, full):
    watched = visit(full)
    page = watched.open("tokens")
    field = card(page, "token_movers").get_by_role("textbox", name="tokens")
    field.fill("")
    field.press("Tab")
    expect(page).to_have_url(re.compile(r"token_movers\.tokens=$"))
    watched.settled()
    expect(page.locator(".refused")).to_have_count(0)


def test_the_attack_step_moves_the_answers(visit, full):
    watched = visit(full)
    page = watched.open("tokens")
    expect(page.locator(".answers")).to_contain_text("attacked, step 64: complied")
    thumb = page.locator("#step [role=slider]")
    thumb.focus()
    thumb.press("Home")
    expect(page.locator(".answers")).to_contain_text("attacked, step 0: refused")
    expect(page).to_have_url(re.compile("step=0"))
    watched.settled()
