"""Front door: `counterpoint <command>`. Each command calls one room's entry point, imported when it is needed."""

import sys

import typer

import commands.cluster
import commands.evaluation
import commands.pretraining
import commands.shards
import commands.tuning
from cluster.settings import RunError, UserError
from commands.console import errors, escape

app = typer.Typer(
    help="Contrastive pretraining for music audio: shards, pretraining on many GPUs, evaluation with intervals.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (
    commands.tuning.quickstart,
    commands.cluster.doctor,
    commands.pretraining.pretrain,
    commands.pretraining.views,
    commands.pretraining.export,
    commands.evaluation.evaluate,
    commands.evaluation.embed,
    commands.evaluation.search,
    commands.tuning.sweep,
    commands.tuning.study,
    commands.cluster.ui,
):
    app.command()(_command)
app.command(context_settings={"ignore_unknown_options": True})(commands.cluster.submit)
app.add_typer(commands.shards.app, name="shards")


def main() -> None:
    """Run a command; an error is one message that names the thing and the remedy, a traceback only with --debug."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app(prog_name="counterpoint")
    except (UserError, RunError) as error:
        if debug:
            raise
        errors.print(f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        errors.print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
