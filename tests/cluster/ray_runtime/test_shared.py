"""Machines that do not see the folder of a run, its shards or MLflow are named before anything runs."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cluster.machine.placement import Machine
from cluster.ray_runtime import shared
from cluster.ray_runtime.shared import Places, look, refuse_own_folder_of_a_job, require_shared
from cluster.settings import UserError

MACHINES = [Machine(address="head", id="h", cpus=0), Machine(address="one", id="1", cpus=4)]


def here(places: Places, mark: str, machines: Sequence[Machine]) -> Iterator[tuple[Machine, list[str]]]:
    """Every machine is this one."""
    yield from ((one, look(places, mark, one.id)) for one in machines)


def test_a_folder_that_all_see_passes_and_nothing_stays_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_answers", here)
    folder = tmp_path / "study"
    require_shared(Places(written={"study.dir": folder}, read={"data.labelled": str(tmp_path)}), MACHINES)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["another folder", "a set that is missing", "a folder that is written elsewhere"])
def test_what_a_machine_does_not_see_is_refused_with_the_machine_the_key_and_the_remedy(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"

    def there(places: Places, mark: str, machines: Sequence[Machine]) -> Iterator[tuple[Machine, list[str]]]:
        (one,) = machines  # the head has no core for work
        if kind == "another folder":
            (folder / mark).unlink()
        wrong = look(places, mark, one.id)
        if kind == "a folder that is written elsewhere":
            (folder / f"{mark}-{one.id}").unlink()
        yield one, wrong

    monkeypatch.setattr(shared, "_answers", there)
    read = {"data.labelled": str(tmp_path / "none")} if kind == "a set that is missing" else {}
    words = {
        "another folder": f"one: study.dir={folder} is not the driver's folder there (No such file or directory)",
        "a set that is missing": f"one: data.labelled={tmp_path}/none is not there; mount it at the same path",
        "a folder that is written elsewhere": f"one: study.dir={folder}: what it writes there is not seen here; mount",
    }[kind]
    with pytest.raises(UserError) as refused:
        require_shared(Places(written={"study.dir": folder}, read=read), MACHINES)
    assert str(refused.value).startswith(words)
    assert list(folder.iterdir()) == []


def test_an_mlflow_that_only_the_driver_sees_is_refused_and_one_that_nobody_sees_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        places = Places(written={}, read={}, store=f"http://127.0.0.1:{port}")
        assert look(places, "mark", "one") == []

        def cut_off(places: Places, mark: str, machines: Sequence[Machine]) -> Iterator[tuple[Machine, list[str]]]:
            server.close()
            yield from here(places, mark, machines)

        monkeypatch.setattr(shared, "_answers", cut_off)
        with pytest.raises(UserError, match=rf"one: MLflow at http://127\.0\.0\.1:{port} does not answer there"):
            require_shared(places, MACHINES)
        require_shared(places, MACHINES)


def test_results_in_a_jobs_own_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_own_folder_of_a_job("study.dir", Path("outputs/study"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match=r"study\.dir=outputs/study: lies in the job's own folder"):
        refuse_own_folder_of_a_job("study.dir", Path("outputs/study"))
    refuse_own_folder_of_a_job("study.dir", tmp_path)
