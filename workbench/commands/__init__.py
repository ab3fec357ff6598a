"""The sub-commands of `workbench`, one dataclass each: its fields are the options.

Nothing here imports torch until a command runs: what a method offers is read from the catalogue.
"""

from tyro.extras import SubcommandApp

from workbench.commands import compare, figures, lab, methods, record, results, show, studies
from workbench.commands.methods import check_name

__all__ = ["check_name", "commands"]


def commands() -> SubcommandApp:
    """All sub-commands; parsing gives an object whose `run` does the work."""
    app = SubcommandApp()
    app.command(name="demo")(studies.Demo)
    for name, group in methods.groups().items():
        app.command(group, name=name, help=methods.HELP[name])
    app.command(name="study")(studies.StudyCommand)
    app.command(name="record")(record.Record)
    app.command(name="compare")(compare.Compare)
    app.command(name="results")(results.Results)
    app.command(lab.group(), name="lab", help=lab.HELP)
    app.command(figures.group(), name="figures", help=figures.HELP)
    app.command(name="list")(show.List)
    app.command(name="doctor")(show.Doctor)
    return app
