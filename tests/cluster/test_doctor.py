"""The doctor names what is wrong and the remedy, and always ends."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from cluster import doctor
from cluster.doctor import as_json, checks, healthy, render
from cluster.ray_runtime.environment import locked
from cluster.settings import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def named(name: str, found: Iterable[doctor.Check]) -> doctor.Check:
    return next(check for check in found if check.name == name)


def test_a_set_up_checkout_is_healthy_and_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = checks()
    render(found, Console(width=200))

    assert healthy(found), [check for check in found if check.state == "fail"]
    assert json.loads(json.dumps(as_json(found)))[0] == {
        "name": "python",
        "state": "ok",
        "found": ".".join(map(str, sys.version_info[:3])),
        "remedy": "",
    }
    assert "torchaudio" in capsys.readouterr().out
    assert {"gloo", "lock", "audio formats", "cores", "memory", "packages", "token", "tracker"} <= {
        c.name for c in found
    }


def test_everything_that_is_wrong_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_BYTES", 1 << 60)
    monkeypatch.setattr(doctor, "MEMORY_BYTES", 1 << 60)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    found = [*doctor._machine(), *doctor._token(), doctor._tracker("http://ann:hunter2@127.0.0.1:1")]

    wrong = [check for check in found if check.state != "ok"]
    assert {check.name for check in wrong} >= {"memory", f"disk of {ROOT}", "token", "tracker"}
    assert all(check.remedy for check in wrong)
    assert "hunter2" not in json.dumps(as_json(found))


def test_a_token_that_others_can_read_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert named("token", doctor._token()).found == f"made: {tmp_path / 'token'}"
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o644)

    check = named("token", doctor._token())

    assert (check.state, check.remedy) == ("warn", f"chmod 600 {tmp_path / 'token'}")


def test_a_package_of_the_same_name_in_another_distribution_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "packages_distributions", lambda: {"evaluation": ["evaluation-kit", doctor.OURS]})

    (check,) = doctor._packages()

    assert (check.name, check.state, check.remedy) == ("package evaluation", "fail", "pip uninstall evaluation-kit")


def test_a_package_from_elsewhere_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOT", tmp_path)

    assert {check.state for check in doctor._packages()} == {"fail"}


def test_a_library_that_does_not_import_is_a_failure_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise OSError("libc10_cuda.so: cannot open shared object file")

    monkeypatch.setattr("cluster.doctor.importlib.import_module", broken)

    check = doctor._imported("torchaudio")

    assert (check.state, check.found) == ("fail", "libc10_cuda.so: cannot open shared object file")
    assert "torch 2.11-2.14" in check.remedy


def test_a_look_that_breaks_is_a_failed_check_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> list[doctor.Check]:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(doctor, "_machine", breaks)

    found = checks()

    assert named("machine", found).found == "ZeroDivisionError: oh"
    assert not healthy(found)
    assert named("packages", found).state == "ok"


def test_versions_other_than_the_locks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "versions", lambda: locked() | {"torch": "1.0"})

    check = doctor._lock()

    assert check.state == "warn"
    assert check.found.startswith("torch is 1.0, not ")
    assert check.remedy == "make setup"


def test_brackets_in_what_was_found_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    check = doctor.Check(name="disk of /home/[ann]", state="ok", found="[/x] of [bold]", remedy="[red]")

    render([check], Console(width=200))

    assert "disk of /home/[ann]  [/x] of [bold]  [red]" in capsys.readouterr().out


@pytest.mark.parametrize("uri", ["mlflow:5000", "file:///home/ann/mlruns"])
def test_a_store_that_runs_would_refuse_is_a_failure(uri: str) -> None:
    check = doctor._tracker(uri)
    assert (check.state, check.name) == ("fail", "tracker")
    assert "write sqlite:///FILE or http://HOST:PORT" in check.found
    assert check.remedy
    assert doctor._tracker("sqlite:////home/ann/mlflow.db").state == "ok"
