"""The pages, by address. To add one: its file, a line here; its figures name it themselves."""

from app.pages import drift, overview, resistance, tokens
from app.pages._base import Page
from app.panels import defaults
from workbench.figures import FIGURES

PAGES: dict[str, Page] = {
    page.path: page for page in (overview.PAGE, resistance.PAGE, tokens.PAGE, drift.PAGE)
}
FIGURE_DEFAULTS: dict[str, str] = {
    name: text for figure in FIGURES.values() for name, text in defaults(figure).items()
}
"""Every panel's own settings as they are when an address says nothing."""

__all__ = ["FIGURE_DEFAULTS", "PAGES", "Page"]
