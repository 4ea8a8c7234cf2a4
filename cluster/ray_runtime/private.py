"""Ray's private interfaces: every use of them, each behind a function.

tests/cluster/test_private_names.py compares them with the Ray that is installed and names what broke.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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


@contextmanager
def fewer_services(*, dashboard: bool) -> Iterator[None]:
    """Within, a local Ray that starts leaves out the processes that serve nobody: half of its 4 CPU-s.

    Always the one that forwards what workers print: `ray.init(log_to_driver=False)` reads none of it. Without a
    dashboard also that of the dashboard, which Ray starts even so, and the one that asks a cloud for machines.
    """
    services: Any = import_module("ray._private.services")
    parameter: Any = import_module("ray._private.parameter")
    before = parameter.RayParams, services.start_api_server
    parameter.RayParams = partial(parameter.RayParams, include_log_monitor=False, no_monitor=not dashboard)
    if not dashboard:
        services.start_api_server = lambda *_, **__: ("", None)  # its address and its process
    try:
        yield
    finally:
        parameter.RayParams, services.start_api_server = before
    if not dashboard:  # a node's agent asks for the address every second, and logs that there is none
        constants: Any = import_module("ray._private.ray_constants")
        put = import_module("ray.experimental.internal_kv")._internal_kv_put
        put(constants.DASHBOARD_ADDRESS, "127.0.0.1:0", namespace=constants.KV_NAMESPACE_DASHBOARD)


def each_shipped(root: Path, excluded: Sequence[str], handle: Callable[[Path], None]) -> None:
    """Call ``handle`` with every path of a working directory that Ray would send."""
    packaging = import_module("ray._private.runtime_env.packaging")
    packaging._dir_travel(root, [packaging._get_excludes(root, list(excluded))], handle, include_gitignore=True)


def jobs_api_version() -> str:
    """Version of the jobs API of the installed Ray."""
    return str(import_module("ray.dashboard.modules.version").CURRENT_VERSION)
