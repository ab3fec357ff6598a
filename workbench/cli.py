"""The command `workbench`. Help, lists and errors of use need no torch and come at once.

Exit codes: 0 all well; 1 a run failed or something is missing; 2 a mistake in what was asked, said
in one line; 130 stopped by Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from workbench import __version__
from workbench.errors import WorkbenchError

DESCRIPTION = (
    "Immunise an open-weight language model, attack it within a budget, record both, and see why "
    "the defence held or broke. With any command: --debug shows full tracebacks, --threads N lets "
    "each process use N threads (default 1: processes that share cores get slower with more)."
)
STOPPED = "Stopped. Finished work is kept; the same command goes on from there."
NO_TORCH = "this command needs {name}, which is not installed; `workbench doctor` says what to do."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    os.environ["OMP_NUM_THREADS"] = _threads(given)  # read by torch when a command imports it
    if given == ["--version"]:
        print(__version__)
        return 0
    from workbench.commands import check_name, commands

    try:
        check_name(given)
        command = commands().cli(
            prog="workbench", description=DESCRIPTION, args=given or ["--help"]
        )
        return command.run(Console())
    except KeyboardInterrupt:
        _say(STOPPED, "yellow")
        return 130
    except WorkbenchError as error:
        if debug:
            raise
        _say(f"error: {error}", "red")
        return 2
    except ModuleNotFoundError as error:
        if debug or (error.name or "workbench").startswith("workbench"):
            raise
        _say(f"error: {NO_TORCH.format(name=error.name)}", "red")
        return 2


def _threads(given: list[str]) -> str:
    """Take `--threads N` out of the arguments."""
    if "--threads" not in given:
        return "1"
    at = given.index("--threads")
    count = given[at + 1] if at + 1 < len(given) else ""
    if not (count.isdecimal() and int(count)):
        _say(f"error: --threads takes a number from 1, not {count!r}.", "red")
        sys.exit(2)
    del given[at : at + 2]
    return count


def _say(sentence: str, style: str) -> None:
    Console(stderr=True).print(Text(sentence, style), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
