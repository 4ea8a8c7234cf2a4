"""Ray's private interfaces: every use of them, each behind a function, listed in `USED` for the contract test.

tests/cluster/test_private_names.py compares `USED` with the Ray that is installed and names what broke.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from cluster.private_names import PrivateName

_JOBS, _SESSION, _CREDENTIALS = (f"cluster.ray_runtime.{name}" for name in ("jobs", "session", "credentials"))
_TRAIN = "trainers.distributed.ray_train"
USED = (
    PrivateName("ray._raylet:Config.initialize", _CREDENTIALS, "reading RAY_AUTH_MODE again"),
    PrivateName(
        "ray._raylet:AuthenticationTokenLoader.instance", _CREDENTIALS, "reading the token again after it is made"
    ),
    PrivateName("ray._raylet:AuthenticationTokenLoader.reset_cache", _CREDENTIALS, "reading the token again"),
    PrivateName("ray._raylet:GcsClient", _SESSION, "trying a token before Ray waits a minute for a wrong one"),
    PrivateName(
        "ray._private.ray_constants:RAY_DASHBOARD_STARTUP_TIMEOUT_S", _SESSION, "the dashboard's time on a busy machine"
    ),
    PrivateName(
        "ray._private.runtime_env.packaging:_dir_travel",
        _JOBS,
        "the size of a checkout before it is sent",
        ("path", "excludes", "handler", "include_gitignore"),
    ),
    PrivateName(
        "ray._private.runtime_env.packaging:_get_excludes", _JOBS, "the files that are never sent", ("path", "excludes")
    ),
    PrivateName("ray.dashboard.modules.version:CURRENT_VERSION", _JOBS, "refusing a jobs API of another version"),
    PrivateName(
        "ray.train.torch:TorchTrainer._initialize_and_run_controller", _TRAIN, "worker counts that divide the batch"
    ),
    PrivateName("ray.train.v2.api.data_parallel_trainer:DatasetsCallback", _TRAIN, "an actor that nothing uses"),
    PrivateName(
        "ray.train.v2.api.data_parallel_trainer:PlacementGroupCleanerCallback", _TRAIN, "an actor that nothing uses"
    ),
    PrivateName("ray.train.torch:TorchTrainer._register_sigint_handler", _TRAIN, "a snapshot at Ctrl-C", ("self",)),
    PrivateName(
        "ray.train.v2._internal.execution.scaling_policy:ElasticScalingPolicy._count_possible_workers",
        _TRAIN,
        "worker counts that divide the batch",
        ("self", "reserved_resources"),
    ),
)


def forget_token() -> None:
    """Make Ray, where it is imported, read the token and its mode again; it reads them once by itself."""
    if "ray" in sys.modules:
        raylet = import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def show_token(address: str) -> None:
    """Show this process's token to a control service.

    Raises:
        ray.exceptions.AuthenticationError: if it is refused.
    """
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
