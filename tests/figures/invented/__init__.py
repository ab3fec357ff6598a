"""Invented rows of every analysis, one module each: `rows(stage, step, seed, arm)` gives them."""

import pkgutil
from importlib import import_module

MODULES = [
    import_module(f"{__name__}.{found.name}")
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name)
]


def rows(stage, step, seed, arm):
    """What all analyses would have written about one checkpoint."""
    return [row for module in MODULES for row in module.rows(stage, step, seed, arm)]
