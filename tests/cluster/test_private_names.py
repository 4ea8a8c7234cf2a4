"""What is used of Ray, Optuna and torch beyond their public interface is there, in the versions that are installed."""

import ast
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.settings import ROOT

PACKAGES = ("commands", "cluster", "data_shards", "trainers", "evaluation", "tuning")


@dataclass(frozen=True)
class PrivateName:
    """One private name of a library."""

    place: str
    """``module:attribute.attribute``."""
    used_by: str
    """Module of this project."""
    purpose: str
    parameters: tuple[str, ...] = ()
    """Of a function: parameters that are passed or overridden."""


def moved(names: Iterable[PrivateName]) -> list[str]:
    """A sentence for each name that the installed library has no longer, or whose parameters changed.

    >>> moved([PrivateName("json:JSONEncoder._iter", "cluster.x", "streaming")])
    ['json moved json:JSONEncoder._iter: used by cluster.x for streaming']
    """
    return [
        f"{name.place.partition('.')[0].partition(':')[0]} {change}: used by {name.used_by} for {name.purpose}"
        for name in names
        if (change := _change(name))
    ]


def _change(name: PrivateName) -> str:
    module, _, path = name.place.partition(":")
    try:
        found: Any = import_module(module)
        for part in filter(None, path.split(".")):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return f"moved {name.place}"
    try:
        known = _parameters(found) if name.parameters else ()
    except (TypeError, ValueError):  # compiled code has no signature
        return ""
    lost = [word for word in name.parameters if word not in known]
    return f"changed {name.place}, which has no {', '.join(lost)}" if lost else ""


def _parameters(found: Any) -> Iterable[str]:
    schema = getattr(found, "_schema", None)  # an operator's
    return [argument.name for argument in schema.arguments] if schema else inspect.signature(found).parameters


_JOBS, _SESSION, _CREDENTIALS = (f"cluster.ray_runtime.{name}" for name in ("jobs", "session", "credentials"))
_TRAIN = "trainers.distributed.ray_train"
OF_RAY = (
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
        "ray._private.parameter:RayParams",
        _SESSION,
        "leaving out processes that serve nobody",
        ("include_log_monitor", "no_monitor"),
    ),
    PrivateName("ray._private.services:start_api_server", _SESSION, "leaving out the dashboard's process"),
    PrivateName(
        "ray.experimental.internal_kv:_internal_kv_put",
        _SESSION,
        "a dashboard's address for a node's agent",
        ("key", "value", "namespace"),
    ),
    PrivateName("ray._private.ray_constants:DASHBOARD_ADDRESS", _SESSION, "a dashboard's address for a node's agent"),
    PrivateName(
        "ray._private.ray_constants:KV_NAMESPACE_DASHBOARD", _SESSION, "a dashboard's address for a node's agent"
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
    PrivateName(
        "ray.train.v2._internal.execution.scaling_policy:FixedScalingPolicy.after_controller_start",
        _TRAIN,
        "an actor that nothing uses",
        ("self", "train_run_context"),
    ),
    PrivateName(
        "ray.train.v2._internal.execution.scaling_policy:FixedScalingPolicy._maybe_send_resource_request",
        _TRAIN,
        "an actor that nothing uses",
        ("self",),
    ),
)
_USER = "tuning.sweep.journal"
OF_OPTUNA = (
    PrivateName("optuna:Trial", _USER, "opening a trial that a killed sweep left", ("study", "trial_id")),
    PrivateName("optuna.trial:FrozenTrial", _USER, "the number of a trial in its storage, `_trial_id`", ("trial_id",)),
    PrivateName(
        "optuna:Trial._suggest", _USER, "values that a killed sweep had not drawn yet", ("name", "distribution")
    ),
    PrivateName("optuna.storages.journal._file:LOCK_FILE_SUFFIX", _USER, "removing the lock that a killed sweep left"),
    PrivateName(
        "optuna.study._multi_objective:_get_pareto_front_trials_by_trials",
        _USER,
        "the front without a copy of every trial",
        ("trials", "directions"),
    ),
)
_CPU, _CONVOLUTION = "trainers.inference.cpu", ("padding", "stride", "dilation", "groups")
OF_ONEDNN = (
    PrivateName(
        "torch:ops.mkldnn._convolution_pointwise.default",
        f"{_CPU}.fused_conv",
        "a convolution and its ReLU in one pass",
        ("X", "W", "B", *_CONVOLUTION, "attr", "scalars", "algorithm"),
    ),
    PrivateName(
        "torch:ops.mkldnn._convolution_pointwise_.binary",
        f"{_CPU}.fused_conv",
        "a convolution, a sum and its ReLU in one pass",
        ("other", "X", "W", "B", *_CONVOLUTION, "binary_attr", "alpha", "unary_attr", "unary_scalars"),
    ),
    PrivateName(
        "torch:ops.mkldnn._reorder_convolution_weight.default",
        f"{_CPU}.fused_conv",
        "a kernel in oneDNN's layout",
        ("self", *_CONVOLUTION, "input_size"),
    ),
    PrivateName("torch:_C._nn.mkldnn_reorder_conv2d_weight", f"{_CPU}.mel_cnn", "a kernel in oneDNN's layout"),
    PrivateName("torch:mkldnn_convolution", f"{_CPU}.mel_cnn", "a convolution in oneDNN's layout"),
    PrivateName("torch:mkldnn_max_pool2d", f"{_CPU}.mel_cnn", "a pool in oneDNN's layout"),
)
"""Where torch is built with it; without these the same is computed by plain layers, which take longer."""
OF_TORCH = (
    PrivateName("torch:Tensor._version", f"{_CPU}.build", "noticing that weights were changed in place"),
    PrivateName("torch.nn.modules.batchnorm:_BatchNorm", f"{_CPU}.folding", "a BatchNorm of any number of dimensions"),
    PrivateName("torch:_foreach_add_", "evaluation.probes.heads", "the steps of many heads at once"),
    PrivateName("torch:_fused_adam_", "evaluation.probes.heads", "Adam of many heads at once"),
    PrivateName("torch:_foreach_lerp_", "trainers.state.optim", "the running mean of all weights at once"),
)


@pytest.mark.parametrize("name", [*OF_RAY, *OF_OPTUNA, *OF_TORCH], ids=lambda name: str(name.place))
def test_a_private_name_is_where_its_user_expects_it(name: PrivateName) -> None:
    assert not moved([name])


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="torch was built without oneDNN",
)
@pytest.mark.parametrize("name", OF_ONEDNN, ids=lambda name: str(name.place))
def test_an_operator_of_onednn_is_where_its_user_expects_it(name: PrivateName) -> None:
    assert not moved([name])


def test_what_moved_is_named_with_its_user_and_purpose() -> None:
    gone = PrivateName("ray._private.gone:Thing", "cluster.x", "one thing")
    lost = PrivateName("ray._raylet:Gone.cache", "cluster.x", "another")
    other = PrivateName("optuna:Trial._suggest", "tuning.y", "drawing", ("name", "priority"))
    operator = PrivateName("torch:ops.aten.relu.default", "trainers.z", "activations", ("self", "slope"))
    assert moved([gone, lost, other, operator]) == [
        "ray moved ray._private.gone:Thing: used by cluster.x for one thing",
        "ray moved ray._raylet:Gone.cache: used by cluster.x for another",
        "optuna changed optuna:Trial._suggest, which has no priority: used by tuning.y for drawing",
        "torch changed torch:ops.aten.relu.default, which has no slope: used by trainers.z for activations",
    ]


@pytest.mark.parametrize("used", [OF_RAY, OF_OPTUNA, OF_ONEDNN, OF_TORCH])
def test_every_user_is_a_module(used: tuple[PrivateName, ...]) -> None:
    for name in used:
        assert (ROOT / f"{name.used_by.replace('.', '/')}.py").is_file(), name


def test_rays_private_modules_are_imported_in_one_module_only() -> None:
    found = {
        str(path.relative_to(ROOT)) for folder in PACKAGES for path in (ROOT / folder).rglob("*.py") if _uses(path)
    }
    # Ray Train's scaling policy is subclassed, so its module is imported where the subclass is.
    assert found <= {"cluster/ray_runtime/private.py", "trainers/distributed/ray_train.py"}


def _uses(path: Path) -> bool:
    """Whether a module imports a private module of Ray, or names one as a string."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [getattr(node, "module", None), getattr(node, "value", None)]
        names += [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
        if any(
            isinstance(name, str) and name.startswith("ray.") and "._" in name and " " not in name for name in names
        ):
            return True
    return False


def test_every_private_name_of_torch_is_listed() -> None:
    places = [name.place.replace(":", ".") for name in (*OF_ONEDNN, *OF_TORCH)]
    for folder in PACKAGES:
        for path in (ROOT / folder).rglob("*.py"):
            for used in _of_torch(path):
                assert any(f"{place}.".startswith(f"{used}.") for place in places), (used, path)


def _of_torch(path: Path) -> set[str]:
    """Dotted private names of torch that a module reads."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names |= {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    return {name for name in names if re.match(r"torch\.(\w+\.)*_[^_]", name)}
