"""How plotly's own controls behave wherever a figure is shown."""

import plotly.io as pio

GRAPH_CONFIG: dict[str, object] = {
    "showSendToCloud": False,
    "displaylogo": False,
    "plotlyServerURL": "",
    "topojsonURL": "",
    "responsive": True,
    "modeBarButtonsToRemove": ["sendDataToCloud", "lasso2d", "select2d", "autoScale2d"],
}
"""Plotly 7 puts a button on every figure that uploads it; a figure may show private data."""


def make_renderers_private() -> None:
    """Give every renderer that a notebook may use this configuration."""
    for name in pio.renderers:
        renderer = pio.renderers[name]
        if hasattr(renderer, "config"):
            renderer.config = dict(GRAPH_CONFIG)
