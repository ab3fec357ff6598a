"""What a reader takes home."""

import pytest

from tests.browser.conftest import card, playwright

expect = playwright.expect
MAGIC = {"pdf": b"%PDF-", "svg": b"<svg", "png": b"\x89PNG", "csv": b"run,"}


@pytest.mark.parametrize("form", MAGIC)
def test_a_figure_is_downloaded(visit, full, tmp_path, form):
    watched = visit(full)
    page = watched.open("resistance", "phi=0.4")
    card(page, "attack_budget").get_by_label("Download or copy").click()
    page.get_by_role("menuitem", name="Download").click()
    page.locator("#download-format label", has_text=form.upper()).click()
    if form == "pdf":
        watched.picture("download")
    with page.expect_download(timeout=60_000) as started:
        page.locator("#download-go").click()
    assert started.value.suggested_filename == f"attack_budget.{form}"
    started.value.save_as(tmp_path / "got")
    content = (tmp_path / "got").read_bytes()
    assert content.startswith(MAGIC[form]) and len(content) > 1000
    if form == "pdf":
        (tmp_path / "got").rename(tmp_path / "got.pdf")
        from workbench.figures.stamps import read_provenance

        assert read_provenance(tmp_path / "got.pdf")["params"]["phi"] == 0.4


def test_the_table_of_verdicts_is_a_figure_too(visit, full, tmp_path):
    page = visit(full).open()
    page.get_by_label("Download or copy").click()
    page.get_by_role("menuitem", name="Download").click()
    with page.expect_download(timeout=60_000) as started:
        page.locator("#download-go").click()
    assert started.value.suggested_filename == "four_pillars.pdf"


def test_python_and_link_are_copied(visit, full):
    watched = visit(full, permissions=["clipboard-read", "clipboard-write"])
    page = watched.open("drift", "compare=vaccine")
    card(page, "drift_by_layer").get_by_label("Download or copy").click()
    page.get_by_role("menuitem", name="Copy as Python").click()
    expect(page.get_by_text("Python copied")).to_be_visible()
    assert 'run_figure("drift_by_layer"' in page.evaluate("navigator.clipboard.readText()")
    page.locator("#copy-link").click()
    expect(page.get_by_text("Link copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_without_a_figure_there_is_nothing_to_download(visit, rowless):
    watched = visit(rowless)
    page = watched.open("drift")
    card(page, "drift_by_layer").get_by_label("Download or copy").click()
    page.get_by_role("menuitem", name="Download").click()
    page.locator("#download-go").click()
    expect(page.locator("#download-error")).to_contain_text("nothing to draw")
