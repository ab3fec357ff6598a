"""What an adapter stands on: its base's folder, and that one's base if it is an adapter, too."""

import json
from contextlib import suppress
from pathlib import Path

from workbench.errors import ModelError
from workbench.model_files import ADAPTER, find


def bases(folder: Path) -> list[Path]:
    """The folders that an adapter's changes come on top of, the nearest first; often one.

    Ends where a folder holds no adapter, or names a base that is not there or no name at all:
    `models.load` says what is wrong with it.

    Raises:
        ModelError: an adapter that is, at once or over others, for itself.
    """
    found = [folder]
    while (base := _base(found[-1])) is not None:
        if any(base.resolve() == other.resolve() for other in found):
            raise ModelError(
                f"{folder} is an adapter whose base is an adapter's folder again: "
                f"{' -> '.join(map(str, [*found, base]))}. Let base_model_name_or_path in "
                f"{base / ADAPTER} name the model that it was trained on."
            )
        found.append(base)
    return found[1:]


def _base(folder: Path) -> Path | None:
    """The folder of what an adapter is for; None where there is none to be found."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        if name := json.loads((folder / ADAPTER).read_bytes())["base_model_name_or_path"]:
            return find(name)
    return None
