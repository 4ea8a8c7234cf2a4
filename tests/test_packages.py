"""What an installed copy holds: every package of the checkout, and the files that are no modules."""

import tomllib
from pathlib import Path

from cluster.settings import ROOT

PACKAGES = ("cluster", "commands", "data_shards", "evaluation", "trainers", "tuning")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_package_is_installed() -> None:
    here = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for file in (ROOT / package).rglob("__init__.py")
    }
    assert sorted(SETUPTOOLS["packages"]) == sorted(here)


def test_every_file_that_is_no_module_is_installed() -> None:
    listed = {
        file
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
        if file.is_file()
    }
    others: set[Path] = set()
    for package in PACKAGES:
        others |= {
            file
            for file in (ROOT / package).rglob("*")
            if file.is_file() and file.suffix not in (".py", ".pyc") and "__pycache__" not in file.parts
        }
    assert others == {file for file in listed if file.suffix not in (".py", ".pyc")}
