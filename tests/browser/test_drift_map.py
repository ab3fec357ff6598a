"""The drift map in a real browser: steps play, under the policy that forbids `eval`."""

from tests.browser.conftest import playwright

expect = playwright.expect
CARD = "[id*='\"type\":\"card\"'][id*='drift_map']"
SHAFTS = """graph => graph.data.filter(t => t.mode === 'lines').map(
    t => t.x.filter((_, i) => i % 3 === 1).map(Number).reduce((a, b) => a + b, 0))"""


def test_steps_play(visit, terms):
    watched = visit(terms, 1280)
    page = watched.open("drift")
    card = page.locator(CARD)
    expect(card).to_contain_text("map of seed 0")
    graph = card.locator(".js-plotly-plot")
    expect(graph).to_contain_text("trust 0.8")
    last = graph.evaluate(SHAFTS)
    assert len(last) == 8  # four arms, two kinds of prompt
    graph.get_by_text("play steps").click()
    watched.until(lambda: graph.evaluate(SHAFTS), lambda now: now != last)  # an earlier step
    watched.until(lambda: graph.evaluate(SHAFTS), lambda now: now == last)
    watched.picture("drift-map-1280")


def test_the_cursor_chooses_the_step(visit, terms):
    page = visit(terms, 1280).open("drift", "step=8")
    expect(page.locator(CARD)).to_contain_text("attack step 8")
