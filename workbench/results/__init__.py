"""What the representation-level defences do on the lab models: tuned, attacked, written down.

One command makes `docs/results.md`: every method is tuned on `val` with the same number of trials
in the grid that decides, then judged on `test` beside its matched control, its paper's own numbers,
an undefended model and a sweep of its intensity. Every run lies in a store, so the command goes on
where it was.
"""

from workbench.results.campaign import Campaign, carry_out
from workbench.results.plan import BASES, Plan, usual

__all__ = ["BASES", "Campaign", "Plan", "carry_out", "usual"]
