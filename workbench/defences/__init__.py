"""Defences, by name. To add one: write its file, then add its line here."""

from workbench.defences._base import Defence, TrainedDefence
from workbench.defences.circuit_breakers import CircuitBreakers
from workbench.defences.random_vaccine import RandomVaccine
from workbench.defences.rep_noise import RepNoise
from workbench.defences.t_vaccine import TVaccine
from workbench.defences.vaccine import Vaccine

DEFENCES: dict[str, type[Defence]] = {
    "vaccine": Vaccine,
    "random_vaccine": RandomVaccine,
    "t_vaccine": TVaccine,
    "circuit_breakers": CircuitBreakers,
    "rep_noise": RepNoise,
}

__all__ = [
    "DEFENCES",
    "CircuitBreakers",
    "Defence",
    "RandomVaccine",
    "RepNoise",
    "TVaccine",
    "TrainedDefence",
    "Vaccine",
]
