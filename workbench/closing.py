"""What a with block completes at its end, or abandons when it fails."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

Self = TypeVar("Self", bound="Closing")


class Closing(ABC):
    """Closed in good order at the end of a with block; after an error, abandoned as it is."""

    @abstractmethod
    def close(self) -> None:
        """Complete it."""

    @abstractmethod
    def abandon(self) -> None:
        """Stop without completing it."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
