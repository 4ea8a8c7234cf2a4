"""`counterpoint doctor`, `ui`, `replay` and `submit`: this machine, its MLflow, and jobs on a cluster."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.settings import RunError, UserError, validate
from commands.console import AsJson, console, positional, print_json, quoted, say

if TYPE_CHECKING:
    from cluster.doctor import Check


def doctor(
    shards: Annotated[
        list[str] | None, typer.Option("--shards", help="A set to open too; may be repeated.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What works on this machine, and what to do about what doesn't."""
    from cluster.doctor import as_json as plain
    from cluster.doctor import checks, healthy, render

    found = [*checks(), *map(_opened, shards or [])]
    if as_json:
        print_json(plain(found))
    else:
        render(found, console)
    if not healthy(found):
        raise typer.Exit(1)


def _opened(place: str) -> "Check":
    from cluster.doctor import Check
    from data_shards.read.stores import open_index

    name = f"shards {place}"
    try:
        index = open_index(place)
    except (UserError, RunError) as error:
        return Check(name, "fail", str(error), quoted("counterpoint", "shards", "verify", place))
    return Check(name, "ok", f"{len(index):,} clips; shards: {len(index.shards):,}")


def ui(
    store: Annotated[
        str | None,
        typer.Option(help="MLflow store; else MLFLOW_TRACKING_URI or outputs/mlflow.db here.", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; asks for a password unless it is local.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65_535)] = 5000,
) -> None:
    """MLflow on this machine: every run, its curves and reports."""
    from cluster.tracking.config import TrackingConfig, store_uri
    from cluster.tracking.ui import serve_ui

    config = validate(TrackingConfig, {"uri": store}, "--store")
    raise typer.Exit(serve_ui(store_uri(config, Path("outputs/run")), host=host, port=port))


def replay(
    folder: Annotated[Path, positional("DIR", "Folder of a run, sweep or study, or of several.")],
    wait: Annotated[float, typer.Option(help="Seconds to give MLflow for each run.", min=1)] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Send MLflow what ended runs could not send during an outage."""
    from cluster.tracking import replay_below

    ends: dict[str, str] = {}
    for run, end in replay_below(folder, wait_s=wait):
        ends[str(run)] = end
        if not as_json:
            say(f"{run}  {end}")
    if as_json:
        print_json(ends)
    elif not ends:
        console.print("nothing waits", highlight=False)
    if any(end != "sent" for end in ends.values()):
        raise typer.Exit(1)


def submit(
    words: Annotated[list[str], positional("WORDS...", "-- COMMAND…, or list, logs JOB, stop JOB.")],
    cluster: Annotated[str | None, typer.Option(help="URL of the cluster's dashboard.", show_default=False)] = None,
    install: Annotated[bool, typer.Option("--install", help="Install requirements.lock for the job first.")] = False,
) -> None:
    """The same command as a job of a Ray cluster: followed, stopped on request, with its exit code."""
    from cluster.ray_runtime.jobs import Cluster
    from cluster.ray_runtime.jobs import submit as send

    match words:
        case ["list"]:
            for job in Cluster(cluster).jobs():
                line = f"{job.name}  {job.status}  {job.seconds:,.0f} s  {job.command}"
                say(line)
        case ["list", "--json"]:
            print_json([asdict(job) for job in Cluster(cluster).jobs()])
        case ["logs", name]:
            print(Cluster(cluster).logs(name), end="")
        case ["stop", name]:
            console.print(Cluster(cluster).stop(name))
        case _:

            def show(text: str) -> None:
                print(text, end="", flush=True)

            raise typer.Exit(send(words, cluster=cluster, install=install, show=show, ask=typer.confirm))
