"""`counterpoint doctor`, `ui` and `submit`: this machine, its MLflow, and jobs on a cluster."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from commands.console import AsJson, console


def doctor(as_json: AsJson = False) -> None:
    """What works on this machine, and what to do about what doesn't."""
    from cluster.doctor import checks, render

    found = checks()
    if as_json:
        print(json.dumps([asdict(check) for check in found]))
    else:
        render(found)
    if any(check.state == "fail" for check in found):
        raise typer.Exit(1)


def ui(
    store: Annotated[str | None, typer.Option(help="MLflow store; default: outputs/mlflow.db here.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """MLflow on this machine: every run, its curves and reports."""
    from cluster.tracking_config import default_store
    from cluster.ui import serve_ui

    raise typer.Exit(serve_ui(store or default_store(Path("outputs/run")), host=host, port=port))


def submit(
    words: Annotated[list[str], typer.Argument(help="-- COMMAND…, or list, logs JOB, stop JOB.", show_default=False)],
    cluster: Annotated[str | None, typer.Option(help="URL of the cluster's dashboard.", show_default=False)] = None,
    install: Annotated[bool, typer.Option("--install", help="Install requirements.lock for the job first.")] = False,
) -> None:
    """The same command as a job of a Ray cluster: followed, stopped on request, with its exit code."""
    from cluster.submit import Cluster
    from cluster.submit import submit as send

    match words:
        case ["list"]:
            for job in Cluster(cluster).jobs():
                console.print(f"{job.name}  {job.status}  {job.seconds:,.0f} s  {job.command}", highlight=False)
        case ["logs", name]:
            print(Cluster(cluster).logs(name), end="")
        case ["stop", name]:
            console.print(Cluster(cluster).stop(name))
        case _:

            def show(text: str) -> None:
                print(text, end="", flush=True)

            raise typer.Exit(send(words, cluster=cluster, install=install, show=show, ask=typer.confirm))
