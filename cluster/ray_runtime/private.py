"""Ray's private interfaces: every use of them, each behind a function.

tests/cluster/test_private_names.py compares them with the Ray that is installed and names what broke.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def forget_token() -> None:
    """Make Ray, where it is imported, read the token and its mode again; it reads them once by itself."""
    if "ray" in sys.modules:
        raylet = import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def show_token(address: str) -> None:
    """Show this process's token to a control service. Raises ray.exceptions.AuthenticationError if it is refused."""
    import_module("ray._raylet").GcsClient(address=address)


def set_dashboard_timeout(seconds: int) -> None:
    """Time for a local dashboard to start; Ray reads the variable of this name once, when it is imported."""
    constants: Any = import_module("ray._private.ray_constants")
    constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = seconds


def each_shipped(root: Path, excluded: Sequence[str], handle: Callable[[Path], None]) -> None:
    """Call ``handle`` with every path of a working directory that Ray would send."""
    packaging = import_module("ray._private.runtime_env.packaging")
    packaging._dir_travel(root, [packaging._get_excludes(root, list(excluded))], handle, include_gitignore=True)


def jobs_api_version() -> str:
    """Version of the jobs API of the installed Ray."""
    return str(import_module("ray.dashboard.modules.version").CURRENT_VERSION)
