"""What every sub-command is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """A parsed sub-command: its fields are what the user gave."""

    @abstractmethod
    def run(self, console: Console) -> int:
        """Do the work; return the exit code."""
