"""The lock holds what the project may be asked to install, so that no test skips for want of an extra."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def test_the_lock_holds_every_requirement_of_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", (ROOT / "requirements.lock").read_text(), re.M):
        locked.setdefault(name, []).append(version)
    for requirement in map(Requirement, asked):
        versions = locked.get(re.sub(r"[-_.]+", "-", requirement.name).lower(), [])
        assert any(requirement.specifier.contains(version) for version in versions), f"{requirement}: run make lock"
