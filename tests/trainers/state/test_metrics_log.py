import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trainers.state.metrics_log import MetricsLog, follow_metrics, read_metrics


def written(path: Path, start: int, stop: int) -> MetricsLog:
    log = MetricsLog(path)
    for step in range(start, stop):
        log.write({"step": step, "loss": 1 / step})
    return log


def test_cutting_back_leaves_every_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, 1, 8).cut_back(5)
    written(path, 6, 10)
    assert [row["step"] for row in read_metrics(path)] == list(range(1, 10))


def test_cutting_back_what_is_not_there_makes_no_file(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.jsonl").cut_back(0)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_line_cut_off_by_a_kill_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, 1, 3)
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    MetricsLog(path).cut_back(2)
    assert path.read_text().endswith("}\n")


def test_the_tail_hands_on_every_step_once_even_when_a_worker_restarts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    seen: list[int] = []
    twelve = threading.Event()

    def watch(row: Mapping[str, Any]) -> None:
        seen.append(row["step"])
        if row["step"] == 8:
            twelve.set()

    with follow_metrics(path, after=2, watch=watch):
        log = written(path, 1, 9)
        assert twelve.wait(30)
        log.cut_back(5)
        written(path, 6, 13)
    assert seen == list(range(3, 13))


def test_a_watcher_that_fails_is_logged_and_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def watch(row: Mapping[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    with follow_metrics(tmp_path / "metrics.jsonl", after=0, watch=watch):
        written(tmp_path / "metrics.jsonl", 1, 3)
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text


def test_a_watcher_that_fails_once_is_given_the_rows_that_follow(tmp_path: Path) -> None:
    seen: list[int] = []

    def watch(row: Mapping[str, Any]) -> None:
        if row["step"] == 2:
            raise ValueError("a broken progress bar")
        seen.append(row["step"])

    with follow_metrics(tmp_path / "metrics.jsonl", after=0, watch=watch):
        written(tmp_path / "metrics.jsonl", 1, 5)
    assert seen == [1, 3, 4]


def test_damaged_lines_are_counted_and_neither_end_a_tail_nor_keep_a_run_from_resuming(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    seen: list[int] = []
    with follow_metrics(path, after=0, watch=lambda row: seen.append(row["step"])):
        written(path, 1, 3)
        with path.open("ab") as file:
            file.write(b'{"step": 3, "lo\n\xff\x00\nNaN\n[3]\n{"step": 3.5}\n{"loss": 1}\n{"step": 3, "loss": null}\n')
        written(path, 3, 5)
    assert seen == [1, 2, 3, 4]
    MetricsLog(path).cut_back(3)
    assert f"{path}: 7 damaged lines were skipped" in caplog.text
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    assert len(path.read_bytes().splitlines()) == 3


def test_the_tail_reads_what_was_written_just_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    seen: list[Any] = []
    with follow_metrics(path, after=0, watch=seen.append):
        path.write_text(json.dumps({"step": 1}) + "\n")
    assert seen == [{"step": 1}]
