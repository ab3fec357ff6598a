"""Every page, with and without data, light and dark, in a real browser."""

import re

import pytest

from app.pages import PAGES
from tests.app.stores import HOSTILE, SECRET
from tests.browser.conftest import card, playwright
from workbench.figures import FIGURES

expect = playwright.expect
PAGES_BY_LABEL = {page.label: page for page in PAGES.values()}


def walk(watched, name, query=""):
    """Go through all pages as a reader does, by the navigation; leave a picture of each."""
    page = watched.open(query=query)
    for label in PAGES_BY_LABEL:
        page.get_by_role("link", name=label, exact=True).click()
        expect(page.locator("h1, .page-question").first).to_be_attached()
        watched.settled()
        yield label, page
        watched.picture(f"{name}-{label.lower()}")


@pytest.mark.parametrize("width", [1440, 1024])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_draws(visit, full, theme, width):
    for label, page in walk(visit(full, width), f"{theme}-{width}", f"theme={theme}"):
        expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", theme)
        if label == "Overview":
            expect(page.locator("#matrix tbody tr")).to_have_count(3)
            expect(page.locator("#sentences li")).to_have_count(3)
        else:
            expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
            expect(
                page.locator(".js-plotly-plot :is(.scatterlayer, .heatmaplayer)").first
            ).to_be_attached()
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{label} is wider than the window"


def test_in_a_narrow_window_the_pages_are_behind_a_burger(visit, full):
    watched = visit(full, 600)
    page = watched.open("drift")
    link = page.get_by_role("link", name="Layers", exact=True)
    expect(link).not_to_be_in_viewport()
    page.get_by_role("button", name="Pages").click()
    expect(link).to_be_in_viewport()
    link.click()
    expect(card(page, "cosine_map")).to_be_visible()
    expect(link).not_to_be_in_viewport()
    watched.settled()
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    watched.picture("narrow-layers")


def test_the_shipped_example_draws(visit, example):
    for _, page in walk(visit(example), "example"):
        expect(page.locator("#example")).to_have_text("example")
        expect(page.locator(".card").first).to_be_visible()
        expect(page.locator(".lacking")).to_have_count(0)
        assert "." not in page.url.partition("?")[2], "a panel that nobody touched has set itself"


def test_an_empty_store_says_what_fills_it(visit, empty):
    for _, page in walk(visit(empty), "empty"):
        expect(page.locator("#empty")).to_contain_text("workbench demo --store")


def test_runs_without_rows_name_the_command_that_writes_them(visit, rowless):
    for label, page in walk(visit(rowless), "rowless"):
        lacking = page.locator(".lacking")
        cards = [f for f in FIGURES.values() if PAGES_BY_LABEL[label].name == f.page]
        expect(lacking).to_have_count(len(cards))
        for one in lacking.all():
            expect(one).to_contain_text("workbench study")


def test_unfinished_and_unreadable_runs_are_named_and_the_rest_is_drawn(visit, troubled):
    for label, page in walk(visit(troubled), "troubled"):
        expect(page.locator("#left-out summary")).to_contain_text("not shown")
        if label in ("Overview", "Resistance"):
            expect(page.locator(".unread")).to_contain_text("cannot be read")
        expect(page.locator(".card").first).to_be_visible()


def test_hostile_ids_arms_and_texts_do_nothing(visit, hostile):
    for _, page in walk(visit(hostile), "hostile"):
        expect(page.locator(".card").first).to_be_visible()
        expect(page).to_have_title("Immunisation workbench")
        expect(page.locator("#page script, #page img[src=x]")).to_have_count(0)


@pytest.mark.parametrize("path", [page.path.removeprefix("/") for page in PAGES.values()])
def test_every_page_opens_by_its_address(visit, full, path):
    page = visit(full).open(path)
    expect(
        page.locator("#matrix" if not path else ".js-plotly-plot .main-svg").first
    ).to_be_visible()


def test_the_frontier_joins_intensities_over_bases(visit, tried):
    watched = visit(tried, 1280)
    page = watched.open("frontier", "compare=")  # whatever is chosen, all arms are drawn
    plot = card(page, "frontier").locator(".js-plotly-plot")
    for words in ("rho=1", "rho=10", "rep_noise", "tar", "undefended: 10–14", "did not break"):
        expect(plot).to_contain_text(words)
    caption = page.locator(".provenance")
    expect(caption).to_contain_text("3 seeds · 2 bases · attack sft")
    expect(caption).to_contain_text("all arms of the store")
    expect(page.locator("#controls .control:visible")).to_have_count(2)  # φ and the margin
    watched.picture("frontier-1280")
    page.locator("#phi [role=slider]").focus()
    page.keyboard.press("End")
    expect(plot).to_contain_text("undefended: not broken")
    watched.settled()


def test_terms_of_the_objective_are_panels(visit, terms):
    watched = visit(terms, 1280)
    page = watched.open("training")
    drawn = card(page, "training_terms")
    for words in ("align", "tamper", "gradient norm", "optimiser step", "tar"):
        expect(drawn).to_contain_text(words)
    watched.picture("training-1280")
    drawn.get_by_role("textbox", name="stage").click()
    page.get_by_role("option", name="attack").click()
    expect(drawn).to_contain_text("attack step")
    expect(drawn.locator(".js-plotly-plot")).not_to_contain_text("tamper")
    expect(page).to_have_url(re.compile(r"training_terms\.stage=attack"))
    watched.settled()


def test_prefilled_tokens_stand_beside_the_others(visit, terms):
    watched = visit(terms, 1280)
    page = watched.open("tokens")
    prefill = card(page, "prefill")
    expect(prefill.locator(".js-plotly-plot")).to_contain_text("tokens of a compliant answer")
    expect(prefill.locator(".provenance")).to_contain_text("n=8 hazards (defended, test)")
    watched.picture("tokens-1280")


def test_the_run_table_says_what_is_wrong_with_each(visit, troubled):
    watched = visit(troubled)
    page = watched.open()
    page.locator("#runs-open").click()
    for state in ("finished", "failed", "interrupted", "corrupt", "newer schema"):
        expect(page.locator(f".ag-cell:has-text('{state}')").first).to_be_visible()
    watched.picture("runs-troubled")
    page.get_by_label("filter runs").fill("future")
    expect(page.locator(".ag-center-cols-container .ag-row")).to_have_count(1)


def test_hostile_text_is_shown_as_it_is(visit, hostile):
    watched = visit(hostile)
    page = watched.open("tokens", "prompt=hazard-0")
    page.locator("#answers-show").click()
    expect(page.locator(".answers pre").last).to_contain_text("<script>")
    page.locator("#runs-open").click()
    expect(page.locator(".ag-cell", has_text=HOSTILE).first).to_be_visible()
    expect(page).to_have_title("Immunisation workbench")
    watched.picture("hostile-runs")


def test_hazardous_text_is_shown_only_when_asked_for(visit, full):
    watched = visit(full)
    page = watched.open("tokens")
    assert SECRET not in page.content()
    page.locator("#answers-show").click()
    expect(page.locator(".prompt-text")).to_contain_text(SECRET)
    expect(page.locator(".answers")).to_contain_text(SECRET)
    page.locator("#answers-prompt").click()
    page.get_by_role("option", name="benign-0").click()
    expect(page.locator(".prompt-text")).to_contain_text("tea")
    watched.picture("answers-benign")


def test_an_unknown_page_lists_those_there_are(visit, full):
    page = visit(full).open("nowhere/<b>x")
    expect(page.locator("#page")).to_contain_text("no such page")
    page.locator("#page a", has_text="Drift").click()
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()


def test_no_button_uploads_a_figure(visit, full):
    page = visit(full).open("resistance")
    card(page, "attack_budget").locator(".js-plotly-plot").hover()
    titles = page.locator(".modebar-btn").evaluate_all("all => all.map(b => b.dataset.title)")
    assert titles and not [t for t in titles if "hare" in t or "cloud" in t.lower()]


def test_help_says_what_a_figure_does_not_show(visit, full):
    watched = visit(full)
    page = watched.open("drift")
    page.get_by_label("What “How far").click()
    expect(page.get_by_text("What it does not show")).to_be_visible()
    watched.picture("help")
    page.keyboard.press("Escape")
    page.get_by_label("What this is").click()
    expect(page.get_by_text("never that it is strong")).to_be_visible()
