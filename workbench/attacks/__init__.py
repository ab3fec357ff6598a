"""Attacks, by name. To add one: write its file, then add its line here."""

from workbench.attacks._base import Attack, Attacked
from workbench.attacks.sft import SupervisedFineTuning

ATTACKS: dict[str, type[Attack]] = {
    "sft": SupervisedFineTuning,
}

__all__ = ["ATTACKS", "Attack", "Attacked", "SupervisedFineTuning"]
