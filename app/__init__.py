"""The dashboard: pages over figures and a store. Never loads torch.

    python -m app runs/demo

`create_app` makes the Dash app; `python -m app` serves it on this machine.
"""

from app.factory import create_app

__all__ = ["create_app"]
