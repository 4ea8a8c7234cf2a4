"""The command line: `counterpoint COMMAND`. Each command calls one entry point, imported when it is needed."""

import atexit
import gc
import sys
from contextlib import nullcontext
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

import commands.captions
import commands.cluster
import commands.config
import commands.evaluate
import commands.models
import commands.search
import commands.shards
import commands.train
import commands.tune
from cluster.entry_points import described, own_failure
from cluster.machine.process import prepare
from cluster.settings import PreemptedError, RunError, UserError
from commands.console import errors, escape, stdout_for_json
from commands.usage import Commands

app = typer.Typer(
    cls=Commands,
    help="Contrastive pretraining for music audio: shards, pretraining on many GPUs, evaluation with intervals.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: drawing it with rich would take twice the time
)
for _command in (
    commands.tune.quickstart,
    commands.cluster.doctor,
    commands.config.config,
    commands.train.pretrain,
    commands.train.views,
    commands.train.export,
    commands.evaluate.evaluate,
    commands.evaluate.embed,
    commands.search.search,
    commands.search.tag,
    commands.search.map,
    commands.tune.sweep,
    commands.tune.study,
    commands.cluster.ui,
    commands.cluster.replay,
):
    app.command()(_command)
app.command(context_settings={"ignore_unknown_options": True})(commands.cluster.submit)
app.add_typer(commands.shards.app, name="shards")
app.add_typer(commands.captions.app, name="captions")
app.add_typer(commands.models.app, name="models")


def _version(asked: bool) -> None:
    if asked:
        print(version("counterpoint-audio"))
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Add the traceback to an error.")] = False,
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Named here for --help: `main` takes --debug out before, `_version` answers --version."""


def main() -> None:
    """Run a command; an error is one message that names the thing and the remedy, a traceback only with --debug."""
    own = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv  # a submitted command's words are its own
    debug = "--debug" in own
    if debug:
        sys.argv.remove("--debug")
    prepare()
    atexit.register(gc.freeze)  # after all others: the end of Python need not look for garbage among a million objects
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a file's name may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")
    try:
        with stdout_for_json() if "--json" in own else nullcontext():
            app(prog_name="counterpoint")
    except (Exception, SystemExit) as error:
        if debug or (isinstance(error, SystemExit) and not own_failure(error)):
            raise
        message, code = describe_error(error)
        errors.print(message, highlight=False, soft_wrap=True)
        sys.exit(code)


def describe_error(error: BaseException) -> tuple[str, int]:
    """The message of an error, with its colours, and the exit code."""
    if isinstance(error, PreemptedError):
        return escape(str(error)), error.exit_code
    if isinstance(error, UserError | RunError):
        what, code = str(error), error.exit_code
    elif place := own_failure(error):
        what, code = f"your own code failed in {place} ({described(error)}); --debug shows the traceback", 1
    elif isinstance(error, OSError):
        what, code = ": ".join(map(str, filter(None, (error.filename, error.strerror or error)))), 1
    else:
        what, code = f"{type(error).__name__}: {error}; internal error: rerun with --debug and report the traceback", 1
    return f"[bold red]error[/] {escape(what)}", code
