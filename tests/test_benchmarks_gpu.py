"""The one command for a GPU: a part that fails or hangs takes nothing from the others."""

import sys
from pathlib import Path

import pytest

from benchmarks.gpu import Part, as_markdown, gpu_tests, parts, run_parts


def python(name: str, code: str, seconds: float = 60) -> Part:
    return Part(name, (sys.executable, "-c", code), seconds)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old.md").write_text("from before")
    return tmp_path / "results"


def test_what_fails_or_hangs_takes_nothing_from_what_comes_after(tmp_path: Path, results: Path) -> None:
    writes = f"import pathlib; pathlib.Path({str(results / 'new.md')!r}).write_text('table'); print('done')"
    hangs = (
        "import subprocess, sys, time; print('begun', flush=True); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
    )
    todo = [python("fails", "raise ValueError('told')"), python("hangs", hangs, 2), python("works", writes)]
    summary = run_parts(todo, tmp_path / "out", results, 100)
    assert [(name, ended) for name, ended, _ in summary] == [
        ("fails", "exit code 1"),
        ("hangs", "stopped after 2 s"),
        ("works", "ok"),
    ]
    assert "ValueError: told" in (tmp_path / "out" / "fails.log").read_text()
    assert (tmp_path / "out" / "hangs.log").read_text() == "begun\n"
    assert (tmp_path / "out" / "new.md").read_text() == "table"
    assert not (tmp_path / "out" / "old.md").exists()
    assert (tmp_path / "out" / "summary.md").read_text() == as_markdown(summary)


def test_the_whole_has_a_time_of_its_own(tmp_path: Path, results: Path) -> None:
    todo = [python("long", "import time; time.sleep(600)"), python("late", "print()")]
    summary = run_parts(todo, tmp_path / "out", results, 2)
    assert [ended for _, ended, _ in summary] == ["stopped after 2 s", "not begun: out of time"]


def test_all_parts_fit_into_ten_minutes_and_name_what_exists() -> None:
    assert {"tests", "augment", "step", "loss", "probes"} <= {part.name for part in parts()}
    assert sum(part.seconds for part in parts()) < 600
    assert "tests/trainers/augment/test_fused.py" in gpu_tests()
