"""What a page is: an address, a question, and the panels that answer it."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from dash import Dash, html

from app.panels import card
from app.reading import Reader
from app.session import Session
from workbench.figures import FIGURES, Figure

Content = Callable[[Session], list[Any]]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of the navigation."""

    name: str
    """As figures name it: `Figure.page`."""
    label: str
    question: str
    """What a reader comes here to find out."""
    path: str
    before: Content | None = None
    """What stands above the figures."""
    after: Content | None = None
    """What stands below them."""
    register: Callable[[Dash, Reader], None] | None = None
    """Callbacks of what stands above and below."""
    draws: bool = True
    """Whether the page's figures are drawn as they are exported; else `before` shows their data."""

    @property
    def figures(self) -> list[Figure]:
        """The figures of this page."""
        return [figure for figure in FIGURES.values() if figure.page == self.name]

    @property
    def parameters(self) -> set[str]:
        """Names of all parameters of its figures."""
        return {f.name for figure in self.figures for f in fields(figure.params)}

    def content(self, session: Session) -> list[Any]:
        """Everything on the page."""
        cards = [card(figure, session) for figure in self.figures] if self.draws else []
        before = self.before(session) if self.before else []
        after = self.after(session) if self.after else []
        return [html.H1(self.question, className="unseen"), *before, *cards, *after]
