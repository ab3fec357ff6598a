"""Defences, by name. To add one: write its file, then add its line here."""

from workbench.defences._base import Defence, TrainedDefence
from workbench.defences.vaccine import Vaccine

DEFENCES: dict[str, type[Defence]] = {
    "vaccine": Vaccine,
}

__all__ = ["DEFENCES", "Defence", "TrainedDefence", "Vaccine"]
