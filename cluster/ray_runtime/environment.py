"""The versions that decide numbers: as in requirements.lock where a job runs, and the same on every machine of a run.

``python -m cluster.ray_runtime.environment`` ends with 0 where this interpreter has the lock's versions, else with 2
and a message; a submitted job starts with it (docs/decisions/013-job-environment.md).
"""

import platform
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cluster.provenance import version_of
from cluster.settings import ROOT, RunError, UserError

LOCK = ROOT / "requirements.lock"
DECISIVE = (
    "torch", "torchaudio", "ray", "numpy", "scipy", "scikit-learn", "soundfile", "soxr", "nnaudio", "mir-eval",
    "optuna", "faiss-gpu", "faiss-cpu",
)  # fmt: skip
"""Packages whose version may change a result. Others may differ: they move files, draw plots, serve pages."""
ASK_TIMEOUT_S = 120.0


def versions() -> dict[str, str]:
    """Python and the decisive packages of this interpreter; ``missing`` where one is not installed."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in DECISIVE:
        found[name] = (version_of(name) or "missing").partition("+")[0]  # torch 2.14.1+cu130: built for one CUDA
    return found


def locked(lock: Path = LOCK) -> dict[str, str]:
    """The versions that the lock has of the decisive packages. Raises UserError if there is no lock."""
    if not lock.is_file():
        raise UserError(f"{lock}: not there; submit from a checkout, the lock travels with it")
    from packaging.requirements import Requirement

    pinned: dict[str, str] = {}
    for line in re.findall(r"^[\w.-]+==[^\\\n]+", lock.read_text(encoding="utf-8"), re.MULTILINE):
        requirement = Requirement(line)
        if requirement.name in DECISIVE and (requirement.marker is None or requirement.marker.evaluate()):
            pinned[requirement.name] = str(requirement.specifier).removeprefix("==")
    return pinned


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Every package that is not as wanted, in words; empty where all are.

    >>> differences({"torch": "2.14.1", "numpy": "2.4.0"}, {"torch": "2.13.0", "numpy": "2.4.0"})
    'torch is 2.13.0, not 2.14.1'
    """
    return ", ".join(f"{name} is {found[name]}, not {wanted[name]}" for name in wanted if found[name] != wanted[name])


def require_locked_versions() -> None:
    """Refuse to run a job with other versions than the checkout's. The UserError names each and the two ways out."""
    wrong = differences(locked(), versions())
    if wrong:
        raise UserError(
            f"{platform.node()}: package versions differ from requirements.lock: {wrong}; "
            "run `make setup` on its nodes, or submit with --install"
        )


def require_same_versions() -> None:
    """Refuse a run over machines that differ; asks each node of the Ray session this process is in.
    The UserError names the node and what differs from this process. Raises RunError if a node does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask: Any = ray.remote(num_cpus=0, max_retries=0)(versions)
    asked = {}
    for node, address in _alive().items():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[node] = address, ask.options(scheduling_strategy=there).remote()
    ours = versions()
    for node, (address, answer) in asked.items():
        try:
            wrong = differences(ours, ray.get(answer, timeout=ASK_TIMEOUT_S))
        except Exception as error:  # Ray has a class for each way a task can fail
            if node not in _alive():
                continue  # lost meanwhile: it takes no part
            raise RunError(
                f"{address}: the node does not answer ({type(error).__name__}); see its raylet.err"
            ) from error
        if wrong:
            raise UserError(f"{address}: other versions than here ({wrong}); run `make setup` there, from one checkout")


def _alive() -> dict[str, str]:
    """Address of every node of the session, by its id."""
    nodes = import_module("ray").nodes()  # published without types
    return {entry["NodeID"]: entry["NodeManagerAddress"] for entry in nodes if entry["Alive"]}


def main() -> int:
    """The check as a command."""
    try:
        require_locked_versions()
    except UserError as error:
        print(f"error {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
