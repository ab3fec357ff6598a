"""The pages, by address. To add one: its file, a line here; its figures name it themselves."""

from app.pages._base import Page
from app.pages.drift import PAGE as DRIFT
from app.pages.frontier import PAGE as FRONTIER
from app.pages.knowledge import PAGE as KNOWLEDGE
from app.pages.layers import PAGE as LAYERS
from app.pages.overview import PAGE as OVERVIEW
from app.pages.reinforcement import PAGE as REINFORCEMENT
from app.pages.resistance import PAGE as RESISTANCE
from app.pages.tokens import PAGE as TOKENS
from app.pages.training import PAGE as TRAINING
from app.pages.weights import PAGE as WEIGHTS
from app.panels import defaults
from workbench.figures import FIGURES

PAGES: dict[str, Page] = {
    page.path: page
    for page in (
        OVERVIEW,
        RESISTANCE,
        FRONTIER,
        TOKENS,
        DRIFT,
        LAYERS,
        WEIGHTS,
        TRAINING,
        REINFORCEMENT,
        KNOWLEDGE,
    )
}
FIGURE_DEFAULTS: dict[str, str] = {
    name: text for figure in FIGURES.values() for name, text in defaults(figure).items()
}
"""Every panel's own settings as they are when an address says nothing."""

__all__ = ["FIGURE_DEFAULTS", "PAGES", "Page"]
