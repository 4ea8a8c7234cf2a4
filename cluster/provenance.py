"""Where a result came from: versions of what computed it and the revision of this checkout."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cluster.settings import ROOT

PACKAGES = ("torch", "torchaudio", "ray", "webdataset", "numpy", "scikit-learn", "mir_eval", "faiss-gpu", "faiss-cpu")


@cache
def provenance() -> dict[str, Any]:
    """Plain JSON types: Python, the packages that are here, the git revision, ``+dirty`` after local changes."""
    packages = {name: found for name in PACKAGES if (found := version_of(name))}
    return {"python": platform.python_version(), "packages": packages, "git_revision": git_revision()}


def version_of(package: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> str:
    """Revision of the checkout, or COUNTERPOINT_REVISION in a submitted job, or ``unknown``."""
    if given := os.environ.get("COUNTERPOINT_REVISION"):
        return given
    try:
        revision = _git("rev-parse", "HEAD")
        return f"{revision}+dirty" if _git("status", "--porcelain", "--untracked-files=no") else revision
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()
