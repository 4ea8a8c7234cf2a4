"""What works on this machine, and what to do about what does not. Every look is cheap; none starts Ray."""

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, kw_only=True)
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
    looks: list[tuple[str, Callable[[], list[Check]]]] = [
        ("python", _python),
        ("libraries", _libraries),
        ("lock", lambda: [_lock()]),
        ("gpu", _gpu),
        ("distributed", _distributed),
        ("audio", _audio),
        ("machine", _machine),
        ("packages", _packages),
        ("temporary files", _places),
        ("token", _token),
        ("tracker", lambda: [_tracker(tracking_uri)]),
    ]
    found: list[Check] = []
    for name, look in looks:
        try:
            found += look()
        except UserError as error:  # its message ends with the remedy
            found_here, _, remedy = str(error).rpartition("; ")
            found.append(Check(name=name, state="fail", found=found_here, remedy=remedy))
        except Exception as error:
            found.append(Check(name=name, state="fail", found=f"{type(error).__name__}: {error}", remedy="make setup"))
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


def _python() -> list[Check]:
    here = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    remedy = "" if good else "use Python 3.11 to 3.13: make PYTHON=python3.12 setup"
    return [Check(name="python", state="ok" if good else "fail", found=here, remedy=remedy)]


def _libraries() -> list[Check]:
    """Import what only an import can show, and ask the others for their version."""
    found = [_imported(name) for name in ("torch", "torchaudio", "faiss", "soundfile", "webdataset", "mlflow")]
    for name in ("ray", "nnaudio", "optuna", "pyarrow", "safetensors"):
        here = version_of(name)
        remedy = "" if here else "make setup"
        found.append(Check(name=name, state="ok" if here else "fail", found=here or "not installed", remedy=remedy))
    return found


def _imported(name: str) -> Check:
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library of another CUDA version
        remedy = "torchaudio 2.11 needs torch 2.11-2.14; make setup" if name == "torchaudio" else "make setup"
        return Check(name=name, state="fail", found=str(error).splitlines()[0], remedy=remedy)
    return Check(name=name, state="ok", found=str(getattr(module, "__version__", "imports")))


def _lock() -> Check:
    """Whether the packages that decide results have the versions of the lock, as a submitted job requires."""
    wrong = differences(locked(), versions())
    if wrong:
        return Check(name="lock", state="warn", found=f"{wrong} as in requirements.lock", remedy="make setup")
    return Check(name="lock", state="ok", found="what decides numbers is as in requirements.lock")


def _gpu() -> list[Check]:
    import torch

    count = num_gpus()
    if not count:
        return [Check(name="gpu", state="ok", found="none; training runs on the CPU")]
    cards = [torch.cuda.get_device_properties(index) for index in range(count)]
    names = ", ".join(f"{card.name} {card.total_memory / 2**30:.0f} GiB" for card in cards)
    return [Check(name="gpu", state="ok", found=f"{names}; CUDA {torch.version.cuda}")]


def _distributed() -> list[Check]:
    import torch.distributed as dist

    gloo, nccl = dist.is_gloo_available(), dist.is_nccl_available()
    found = [Check(name="gloo", state="ok" if gloo else "fail", found="available" if gloo else "missing")]
    wanted: State = "ok" if nccl or not num_gpus() else "fail"
    text = ".".join(map(str, importlib.import_module("torch.cuda.nccl").version())) if nccl and num_gpus() else ""
    found.append(Check(name="nccl", state=wanted, found=text or ("available" if nccl else "missing")))
    return found


def _audio() -> list[Check]:
    formats: dict[str, str] = importlib.import_module("soundfile").available_formats()
    missing = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name not in formats]
    if missing:
        remedy = "install the soundfile wheel (it brings libsndfile): make setup"
        return [Check(name="audio formats", state="warn", found=f"without {', '.join(missing)}", remedy=remedy)]
    return [Check(name="audio formats", state="ok", found="WAV, FLAC, OGG, MP3")]


def _machine() -> list[Check]:
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(ROOT)
    found = [
        Check(name="cores", state="ok", found=str(num_cores())),
        _enough("memory", memory.available, MEMORY_BYTES, "close other programs, or lower data.batch"),
        _enough(f"disk of {ROOT}", disk.free, FREE_BYTES, "free space, or put run.dir and the shards elsewhere"),
    ]
    shared = Path("/dev/shm")  # Ray's object store lives there
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        found.append(_enough(str(shared), free, SHARED_BYTES, "start the container with --shm-size=8g"))
    return found


def _enough(name: str, free: int, wanted: int, remedy: str) -> Check:
    text = f"{free / 2**30:.1f} GiB free"
    if free >= wanted:
        return Check(name=name, state="ok", found=text)
    return Check(name=name, state="warn", found=f"{text}, {wanted / 2**30:.0f} are wanted", remedy=remedy)


def _packages() -> list[Check]:
    """Each package is this checkout's, and no installed distribution brings one of the same name."""
    owners = packages_distributions()
    found: list[Check] = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve() if spec and spec.origin else None
        rivals = sorted({owner for owner in owners.get(name, []) if owner != OURS})
        if where is None or not where.is_relative_to(ROOT):
            remedy = f"run from {ROOT}, or: pip install --no-deps --editable {ROOT}"
            found.append(Check(name=f"package {name}", state="fail", found=f"is {where}", remedy=remedy))
        elif rivals:
            remedy = f"pip uninstall {' '.join(rivals)}"
            found.append(
                Check(name=f"package {name}", state="fail", found=f"also in {', '.join(rivals)}", remedy=remedy)
            )
    if found:
        return found
    here = version_of(OURS)
    about = f"version {here}" if here else "not installed; found through the path"
    return [Check(name="packages", state="ok", found=f"{ROOT} ({about})")]


def _token() -> list[Check]:
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        remedy = "unset RAY_AUTH_MODE: without a token anyone who reaches the cluster runs code on it"
        return [Check(name="token", state="warn", found="authentication is switched off", remedy=remedy)]
    if not has_token():
        ensure_token()  # tried, not guessed: its error ends with the remedy
        return [Check(name="token", state="ok", found=f"made: {token_path()}")]
    if not os.environ.get("RAY_AUTH_TOKEN") and token_path().stat().st_mode & 0o077:
        remedy = f"chmod 600 {token_path()}"
        return [Check(name="token", state="warn", found=f"{token_path()} can be read by others", remedy=remedy)]
    return [Check(name="token", state="ok", found="there, and readable by its owner alone")]


def _places() -> list[Check]:
    """The folders that a run needs beside its own; each is written to."""
    taken = ray_folder()
    if was := replaced.get("TMPDIR"):
        found = f"{os.environ['TMPDIR']}, because TMPDIR={was} cannot be written to or is too long for sockets"
        return [Check(name="temporary files", state="ok", found=found), *_caches()]
    named = next((f"{name}={value}" for name in ("RAY_TMPDIR", "TMPDIR") if (value := os.environ.get(name))), "/tmp")
    found = (
        f"{taken}, because {named} cannot be used"
        if taken
        else f"{named}: writable, and short enough for Ray's sockets"
    )
    return [Check(name="temporary files", state="ok", found=found), *_caches()]


def _caches() -> list[Check]:
    moved = cache_variables(os.environ)
    places = ", ".join(f"{name}={place}" for name, place in moved.items())
    return [Check(name="caches", state="ok", found=f"no home to write to: {places}")] if moved else []


def _tracker(uri: str | None) -> Check:
    uri = uri or store_uri(TrackingConfig(), ROOT / "outputs" / "run")
    shown = without_credentials(uri)
    try:
        reason = trouble(uri)
    except UserError as error:
        remedy = "a run would refuse it: set MLFLOW_TRACKING_URI to one of these, or unset it"
        return Check(name="tracker", state="fail", found=str(error), remedy=remedy)
    if reason:
        remedy = "runs go on, their log is sent when it is back; is the server up, is MLFLOW_TRACKING_URI right?"
        return Check(name="tracker", state="warn", found=f"{shown} does not answer: {reason}", remedy=remedy)
    return Check(
        name="tracker", state="ok", found=shown if uri.startswith("http") else f"{shown}; `counterpoint ui` shows it"
    )
