"""What works on this machine, and what to do about what does not. Every look is cheap; none starts Ray."""

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.files.storage import without_credentials
from cluster.machine.process import num_cores
from cluster.machine.resources import num_gpus
from cluster.machine.scratch import cache_variables, ray_folder, replaced
from cluster.provenance import version_of
from cluster.ray_runtime.credentials import ensure_token, has_token, token_path
from cluster.ray_runtime.environment import differences, locked, versions
from cluster.settings import ROOT, UserError
from cluster.tracking.config import TrackingConfig, store_uri
from cluster.tracking.store import trouble

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "warn", "fail"]
OURS = "counterpoint-audio"
PACKAGES = ("commands", "cluster", "data_shards", "trainers", "evaluation", "tuning", "counterpoint")
FREE_BYTES = 10 << 30
SHARED_BYTES = 1 << 30
MEMORY_BYTES = 8 << 30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    remedy: str = ""
    """What to do; empty where nothing is to be done."""


def checks(*, tracking_uri: str | None = None) -> list[Check]:
    """Look at everything; a look that itself breaks is a failed check, not the end. ``tracking_uri`` is MLflow's store;
    None: the one that a run here would use.
    """
    looks: dict[str, Callable[[], Iterable[Check]]] = {
        "python": _python, "libraries": _libraries, "lock": lambda: [_lock()], "gpu": _gpu,
        "distributed": _distributed, "audio": _audio, "machine": _machine, "packages": _packages,
        "temporary files": _places, "token": _token, "tracker": lambda: [_tracker(tracking_uri)],
    }  # fmt: skip
    found: list[Check] = []
    for name, look in looks.items():
        try:
            found += look()
        except UserError as error:  # its message ends with the remedy
            found_here, _, remedy = str(error).rpartition("; ")
            found.append(Check(name, "fail", found_here, remedy))
        except Exception as error:
            found.append(Check(name, "fail", f"{type(error).__name__}: {error}", "make setup"))
    return found


def as_json(found: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks as plain JSON types."""
    return [asdict(check) for check in found]


def healthy(found: Sequence[Check]) -> bool:
    """Whether nothing failed; a warning does not count."""
    return all(check.state != "fail" for check in found)


def render(found: Sequence[Check], console: "Console") -> None:
    """Print the checks as a table."""
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "remedy"):
        table.add_column(heading, overflow="fold")
    for check in found:
        cells = map(escape, (check.name, check.found, check.remedy))  # a path or an error may hold brackets
        table.add_row(f"[{colours[check.state]}]{check.state}[/]", *cells)
    console.print(table)


def _python() -> Iterator[Check]:
    here = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        yield Check("python", "ok", here)
    else:
        yield Check("python", "fail", here, "use Python 3.11 to 3.13: make PYTHON=python3.12 setup")


def _libraries() -> Iterator[Check]:
    """Import what only an import can show, and ask the others for their version."""
    yield from map(_imported, ("torch", "torchaudio", "faiss", "soundfile", "webdataset", "mlflow"))
    for name in ("ray", "nnaudio", "optuna", "pyarrow", "safetensors"):
        here = version_of(name)
        yield Check(name, "ok", here) if here else Check(name, "fail", "not installed", "make setup")


def _imported(name: str) -> Check:
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library of another CUDA version
        remedy = "torchaudio 2.11 needs torch 2.11-2.14; make setup" if name == "torchaudio" else "make setup"
        return Check(name, "fail", str(error).splitlines()[0], remedy)
    return Check(name, "ok", str(getattr(module, "__version__", "imports")))


def _lock() -> Check:
    """Whether the packages that decide results have the versions of the lock, as a submitted job requires."""
    if wrong := differences(locked(), versions()):
        return Check("lock", "warn", f"{wrong} as in requirements.lock", "make setup")
    return Check("lock", "ok", "what decides numbers is as in requirements.lock")


def _gpu() -> Iterator[Check]:
    import torch

    cards = [torch.cuda.get_device_properties(index) for index in range(num_gpus())]
    names = ", ".join(f"{card.name} {card.total_memory / 2**30:.0f} GiB" for card in cards)
    yield Check("gpu", "ok", f"{names}; CUDA {torch.version.cuda}" if cards else "none; training runs on the CPU")


def _distributed() -> Iterator[Check]:
    import torch.distributed as dist

    gloo, nccl = dist.is_gloo_available(), dist.is_nccl_available()
    yield Check("gloo", "ok" if gloo else "fail", "available" if gloo else "missing")
    text = ".".join(map(str, importlib.import_module("torch.cuda.nccl").version())) if nccl and num_gpus() else ""
    yield Check("nccl", "ok" if nccl or not num_gpus() else "fail", text or ("available" if nccl else "missing"))


def _audio() -> Iterator[Check]:
    formats: dict[str, str] = importlib.import_module("soundfile").available_formats()
    wanted = ("WAV", "FLAC", "OGG", "MP3")
    if missing := ", ".join(name for name in wanted if name not in formats):
        remedy = "install the soundfile wheel (it brings libsndfile): make setup"
        yield Check("audio formats", "warn", f"without {missing}", remedy)
    else:
        yield Check("audio formats", "ok", ", ".join(wanted))


def _machine() -> Iterator[Check]:
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(ROOT)
    yield Check("cores", "ok", str(num_cores()))
    yield _enough("memory", memory.available, MEMORY_BYTES, "close other programs, or lower data.batch")
    yield _enough(f"disk of {ROOT}", disk.free, FREE_BYTES, "free space, or put run.dir and the shards elsewhere")
    shared = Path("/dev/shm")  # Ray's object store lives there
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        yield _enough(str(shared), free, SHARED_BYTES, "start the container with --shm-size=8g")


def _enough(name: str, free: int, wanted: int, remedy: str) -> Check:
    text = f"{free / 2**30:.1f} GiB free"
    if free >= wanted:
        return Check(name, "ok", text)
    return Check(name, "warn", f"{text}, {wanted / 2**30:.0f} are wanted", remedy)


def _packages() -> Iterator[Check]:
    """Each package is this checkout's, and no installed distribution brings one of the same name."""
    owners, good = packages_distributions(), True
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve() if spec and spec.origin else None
        rivals = sorted({owner for owner in owners.get(name, []) if owner != OURS})
        if where is None or not where.is_relative_to(ROOT):
            good, remedy = False, f"run from {ROOT}, or: pip install --no-deps --editable {ROOT}"
            yield Check(f"package {name}", "fail", f"is {where}", remedy)
        elif rivals:
            good, remedy = False, f"pip uninstall {' '.join(rivals)}"
            yield Check(f"package {name}", "fail", f"also in {', '.join(rivals)}", remedy)
    if good:
        here = version_of(OURS)
        about = f"version {here}" if here else "not installed; found through the path"
        yield Check("packages", "ok", f"{ROOT} ({about})")


def _token() -> Iterator[Check]:
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        remedy = "unset RAY_AUTH_MODE: without a token anyone who reaches the cluster runs code on it"
        yield Check("token", "warn", "authentication is switched off", remedy)
    elif not has_token():
        ensure_token()  # tried, not guessed: its error ends with the remedy
        yield Check("token", "ok", f"made: {token_path()}")
    elif not os.environ.get("RAY_AUTH_TOKEN") and token_path().stat().st_mode & 0o077:
        yield Check("token", "warn", f"{token_path()} can be read by others", f"chmod 600 {token_path()}")
    else:
        yield Check("token", "ok", "there, and readable by its owner alone")


def _places() -> Iterator[Check]:
    """The folders that a run needs beside its own; each is written to."""
    taken = ray_folder()
    named = next((f"{name}={value}" for name in ("RAY_TMPDIR", "TMPDIR") if (value := os.environ.get(name))), "/tmp")
    found = f"{named}: writable, and short enough for Ray's sockets"
    if was := replaced.get("TMPDIR"):
        found = f"{os.environ['TMPDIR']}, because TMPDIR={was} cannot be written to or is too long for sockets"
    elif taken:
        found = f"{taken}, because {named} cannot be used"
    yield Check("temporary files", "ok", found)
    if moved := cache_variables(os.environ):
        places = ", ".join(f"{name}={place}" for name, place in moved.items())
        yield Check("caches", "ok", f"no home to write to: {places}")


def _tracker(uri: str | None) -> Check:
    uri = uri or store_uri(TrackingConfig(), ROOT / "outputs" / "run")
    shown = without_credentials(uri)
    try:
        reason = trouble(uri)
    except UserError as error:
        remedy = "a run would refuse it: set MLFLOW_TRACKING_URI to one of these, or unset it"
        return Check("tracker", "fail", str(error), remedy)
    if reason:
        remedy = "runs go on, their log is sent when it is back; is the server up, is MLFLOW_TRACKING_URI right?"
        return Check("tracker", "warn", f"{shown} does not answer: {reason}", remedy)
    return Check("tracker", "ok", shown if uri.startswith("http") else f"{shown}; `counterpoint ui` shows it")
