"""What is used of Ray and Optuna beyond their public interface is there, in the versions that are installed."""

import ast
from pathlib import Path

import pytest

from cluster.private_names import PrivateName, moved
from cluster.ray_runtime import private
from cluster.settings import ROOT
from tuning.sweep import optuna_private

PACKAGES = ("commands", "cluster", "data_shards", "trainers", "evaluation", "tuning")


@pytest.mark.parametrize("name", [*private.USED, *optuna_private.USED], ids=lambda name: str(name.place))
def test_a_private_name_is_where_its_user_expects_it(name: PrivateName) -> None:
    assert not moved([name])


def test_what_moved_is_named_with_its_user_and_purpose() -> None:
    gone = PrivateName("ray._private.gone:Thing", "cluster.x", "one thing")
    lost = PrivateName("ray._raylet:Gone.cache", "cluster.x", "another")
    other = PrivateName("optuna:Trial._suggest", "tuning.y", "drawing", ("name", "priority"))
    assert moved([gone, lost, other]) == [
        "ray moved ray._private.gone:Thing: used by cluster.x for one thing",
        "ray moved ray._raylet:Gone.cache: used by cluster.x for another",
        "optuna changed optuna:Trial._suggest, which has no priority: used by tuning.y for drawing",
    ]


@pytest.mark.parametrize("used", [private.USED, optuna_private.USED])
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
