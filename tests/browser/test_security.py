"""The walls, as a browser meets them."""

from tests.browser.conftest import playwright

expect = playwright.expect


def test_without_the_token_there_is_only_a_refusal(chromium, full):
    page = chromium.new_page()
    for address in (full.split("?")[0], full[:-3] + "xxx"):
        answer = page.goto(address)
        assert answer.status == 401
        expect(page.locator("body")).to_contain_text("needs its token")
    page.close()


def test_another_page_cannot_reach_the_app(chromium, full, empty):
    """A page of another origin, with the reader's cookie, gets nothing and changes nothing."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(full)
    page.goto(empty)
    home = full.split("?")[0]
    fetch = "u => fetch(u, {method: 'POST', mode: 'no-cors', credentials: 'include', body: '{}'})"
    blocked = page.evaluate(f"u => ({fetch})(u).then(() => 'sent', () => 'blocked')", home)
    assert blocked == "blocked"  # by our own policy: connect-src 'self'
    context.close()


def test_a_foreign_host_gets_nothing(chromium, full):
    context = chromium.new_context()
    port = full.split(":")[2].split("/")[0]
    headers = {"Host": f"evil.example:{port}"}
    answer = context.request.get(full, headers=headers)
    assert answer.status == 403
    assert context.request.post(
        full.split("?")[0] + "_dash-update-component",
        headers={"Origin": "http://evil.example"}, data="{}",
    ).status == 403  # fmt: skip
    context.close()
