"""`workbench immunise|attack|probe METHOD`: one sub-command a method, made from the catalogue.

Every option of a method is a field of its dataclass, with its type, default and doc; a method that
joins a registry joins the command line.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import tyro
from rich.console import Console
from tyro.extras import SubcommandApp

from workbench import catalogue
from workbench.commands._base import Command
from workbench.errors import InvalidValueError

HELP = {
    "immunise": "Immunise a model with one defence and save it.",
    "attack": "Attack a model within a budget and record how far it got.",
    "probe": "Compare two checkpoints with one analysis.",
}


@dataclass(frozen=True, kw_only=True)
class Method(Command):
    """What the three groups share: a method with settings."""

    entry: ClassVar[dict[str, Any]]

    def settings(self) -> dict[str, Any]:
        """The method's settings as given, nested ones as dicts."""
        given = asdict(self)
        return {item["name"]: given[item["name"]] for item in self.entry["fields"]}


@dataclass(frozen=True, kw_only=True)
class Immunise(Method):
    """Immunise a model in a run folder, recorded and measured while it happens."""

    model: str
    """`lab:base`, `lab:aligned` with options, a model directory, or a Hub id."""
    data: str = "lab"
    """`lab`, or a folder with one file a data stream."""
    store: Path = Path("runs")
    """Folder of run folders. A finished run is not made again."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """Folder to copy the immunised model to, in plain Hugging Face format."""
    seed: int = 0
    """Seed of everything random: the same seed gives the same numbers."""
    template: str | None = None
    """Chat template: `plain`, or a Jinja text. None: the model's own."""

    def run(self, console: Console) -> int:
        """Train, measure and save."""
        from workbench.defences import DEFENCES
        from workbench.single import immunise
        from workbench.store import Store

        name = self.entry["name"]
        defence = instance(DEFENCES[name], self.settings())
        immunise(name, defence, self.model, self.data, self.seed, Store(self.store), self.output,
                 console, template=self.template)  # fmt: skip
        return 0


@dataclass(frozen=True, kw_only=True)
class Attack(Method):
    """Attack a model, measure while it is attacked, and keep the curve."""

    model: str
    """`lab:base`, `lab:aligned` with options, a model directory, or a Hub id."""
    data: str = "lab"
    """`lab`, or a folder with one file a data stream."""
    store: Path = Path("runs")
    """Folder of run folders. A finished run is not made again."""
    seed: int = 0
    """Seed of everything random: the same seed gives the same numbers."""
    template: str | None = None
    """Chat template: `plain`, or a Jinja text. None: the model's own."""

    def run(self, console: Console) -> int:
        """Attack and record."""
        from workbench.attacks import ATTACKS
        from workbench.single import attack
        from workbench.store import Store

        name = self.entry["name"]
        method = instance(ATTACKS[name], self.settings())
        attack(name, method, self.model, self.data, self.seed, Store(self.store), console,
               template=self.template)  # fmt: skip
        return 0


@dataclass(frozen=True, kw_only=True)
class Probe(Method):
    """Look at a model beside a reference on the same held-out text, or at what a run recorded."""

    model: str | None = None
    """`lab:base`, `lab:aligned` with options, a model directory, an adapter's, or a Hub id."""
    reference: str | None = None
    """The checkpoint compared with; given like the model."""
    recording: Path | None = None
    """A run folder whose recorded hidden states are looked at, instead of a model."""
    data: str = "lab"
    """`lab`, `builtin`, a folder with one file a data stream, or one file, which is read whole."""
    split: Literal["defend", "attack", "val", "test"] = "test"
    """Whose questions are read, but of one file."""
    prompts: int | None = None
    """Prompts of each kind, at most; none for 32, or for all of one file."""
    template: str | None = None
    """Chat template for both models: `plain`, or a Jinja text. None: the model's own for both."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """Store to keep the rows in, as a run folder that figures and dashboard draw."""

    def run(self, console: Console) -> int:
        """Measure and print a summary by kind of text."""
        if (self.model is None) == (self.recording is None):
            raise InvalidValueError("give either --model (and --reference) or --recording.")
        from workbench.probes import PROBES

        name = self.entry["name"]
        probe = instance(PROBES[name], self.settings())
        if self.recording is not None:
            from workbench.recorded_probing import probe_recorded

            probe_recorded(name, probe, self.recording, console, out=self.output)
        elif self.model is not None:
            from workbench.probing import probe_models

            probe_models(name, probe, self.model, self.reference, self.data, console,
                         split=self.split, prompts=self.prompts, template=self.template,
                         out=self.output)  # fmt: skip
        return 0


GROUPS: dict[str, tuple[str, type[Method]]] = {
    "immunise": ("defences", Immunise),
    "attack": ("attacks", Attack),
    "probe": ("probes", Probe),
}


def groups() -> dict[str, SubcommandApp]:
    """The groups of sub-commands that the catalogue gives."""
    found = catalogue.load()
    made = {}
    for name, (section, base) in GROUPS.items():
        made[name] = SubcommandApp()
        for entry in found[section]:
            register = made[name].command(name=entry["name"], help=description(entry))
            register(command(entry, base))
    return made


def check_name(arguments: Sequence[str]) -> None:
    """Say which methods there are before the parser says less about a name it does not know.

    Raises:
        UnknownNameError: the word after a group is not one of its methods.
    """
    if len(arguments) > 1 and arguments[0] in GROUPS and not arguments[1].startswith("-"):
        catalogue.entry(GROUPS[arguments[0]][0], arguments[1])


def description(entry: dict[str, Any]) -> str:
    """Summary and source of a method, as its help begins."""
    return f"{entry['summary']}\n\n{catalogue.citation(entry)}"


def command(entry: dict[str, Any], base: type[Method]) -> type[Method]:
    """The sub-command of one entry: what its group takes, then the method's own settings."""
    return make_dataclass(
        f"{base.__name__}-{entry['name']}",
        [_option(item) for item in entry["fields"]],
        bases=(base,),
        frozen=True,
        kw_only=True,
        namespace={"entry": entry, "__doc__": base.__doc__},
    )


def _option(item: dict[str, Any]) -> tuple[str, Any, Any]:
    """Name, type with help, and default of one setting."""
    if "fields" in item:
        inside = [_option(part) for part in item["fields"]]
        group = make_dataclass(
            item["type"], inside, frozen=True, kw_only=True, namespace={"__doc__": item["doc"]}
        )
        return item["name"], group, field(default_factory=group)
    kind = catalogue.parse_type(item["type"])
    option = Annotated[kind, tyro.conf.arg(help=item["doc"])]  # type: ignore[valid-type]
    if "default" not in item:
        return item["name"], option, field()
    default = item["default"]
    return (
        item["name"],
        option,
        field(default=tuple(default) if isinstance(default, list) else default),
    )


def instance(kind: type, settings: dict[str, Any]) -> Any:
    """A method with these settings; nested ones become the dataclass that their field declares."""
    hints = get_type_hints(kind)
    return kind(
        **{
            name: instance(hints[name], value) if is_dataclass(hints[name]) else value
            for name, value in settings.items()
        }
    )
