"""A job runs with the versions of the checkout's lock, or is refused with the reason."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.ray_runtime import environment
from cluster.settings import ROOT, UserError

LOCK = """
# made by a test
numpy==1.0 ; python_full_version < '3.9' \\
    --hash=sha256:00
numpy=={numpy} ; python_full_version >= '3.9' \\
    --hash=sha256:00
torch=={torch} \\
    --hash=sha256:00
rich==0.1
"""


def test_the_checkouts_lock_is_what_runs_here() -> None:
    command = [sys.executable, "-m", "cluster.ray_runtime.environment"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert environment.locked().keys() >= {"torch", "numpy", "ray", "optuna"}


def test_a_build_for_one_cuda_is_the_version_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_text(LOCK.format(numpy="2.4.6", torch="2.14.1"))
    wanted = environment.locked(tmp_path / "lock")
    assert wanted == {"numpy": "2.4.6", "torch": "2.14.1"}
    monkeypatch.setattr(environment, "version_of", {"numpy": "2.4.6", "torch": "2.14.1+cu130"}.get)
    monkeypatch.setattr(environment, "DECISIVE", ("torch", "numpy"))
    assert environment.differences(wanted, environment.versions()) == ""


def test_another_version_is_refused_with_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_text(LOCK.format(numpy=version("numpy"), torch="2.0.1"))
    found = environment.locked(tmp_path / "lock")
    monkeypatch.setattr(environment, "locked", lambda: found)
    with pytest.raises(UserError, match=r"torch is .*, not 2\.0\.1; .*`make setup`.* or submit with --install"):
        environment.require_locked_versions()
    assert environment.main() == 2


def test_a_folder_without_a_lock_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="submit from a checkout"):
        environment.locked(tmp_path / "requirements.lock")


class Machines:
    """Stands for Ray with two nodes: one of other versions, or one that is lost while it is asked."""

    def __init__(self, answers: dict[str, dict[str, str] | None]) -> None:
        self.answers, self.lost = answers, set[str]()

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "NodeManagerAddress": f"10.0.0.{name[0]}", "Alive": name not in self.lost}
            for name in self.answers
        ]

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        def options(scheduling_strategy: Any) -> Any:
            return SimpleNamespace(remote=lambda: scheduling_strategy.node_id)

        return lambda _: SimpleNamespace(options=options)

    def get(self, name: str, **_: Any) -> dict[str, str]:
        answer = self.answers[name]
        if answer is None:
            self.lost.add(name)
            raise ConnectionError(name)
        return answer


@pytest.mark.ray
def test_a_node_of_other_versions_is_named_and_a_lost_one_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    ours = environment.versions()
    machines = Machines({"2" * 56: ours, "3" * 56: None})
    for name in ("nodes", "remote", "get"):
        monkeypatch.setattr(ray, name, getattr(machines, name))
    environment.require_same_versions()
    machines.answers["2" * 56] = ours | {"torch": "2.11.0"}
    with pytest.raises(UserError, match=r"10\.0\.0\.2: other versions than here \(torch is 2\.11\.0, not .*make setup"):
        environment.require_same_versions()
