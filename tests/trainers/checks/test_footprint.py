"""What a dry run measures: small steps in a process of their own, and what larger ones follow from them."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.settings import RunError
from trainers.checks import dry_run as plans
from trainers.checks.dry_run import plan, repeats
from trainers.checks.footprint import Step, extrapolate, measure_steps, of_size, smallest
from trainers.checks.start_up import check
from trainers.config import ExperimentConfig

MakeConfig = Callable[..., ExperimentConfig]


def step(clips: int, mib: int, seconds: float = 0.1) -> Step:
    return Step(clips=clips, seconds=seconds, host_bytes=mib << 20, gpu_bytes=0, parameters=1000)


def fake(steps: list[Step]) -> Callable[..., list[Step]]:
    def measure(*_: Any, watch: Callable[[Step], None], **__: Any) -> list[Step]:
        for one in steps:
            watch(one)
        return steps

    return measure


def test_larger_steps_lie_on_the_line_through_the_last_two() -> None:
    steps = [step(0, 300, 0), step(4, 400, 1.0), step(8, 440, 1.8)]
    ahead = extrapolate(steps, 16)
    assert replace(ahead, seconds=0) == step(16, 520, 0)
    assert ahead.seconds == pytest.approx(3.4)
    assert extrapolate(steps, 8) == steps[-1]
    assert extrapolate([step(0, 300, 0), step(4, 400, 1.0)], 8) == step(8, 500, 2.0)


def test_a_peak_that_does_not_grow_is_not_extrapolated_downwards() -> None:
    assert extrapolate([step(4, 400, 1.0), step(8, 400, 0.9)], 64) == step(64, 400, 0.9)


@pytest.mark.parametrize(
    ("change", "least"),
    [({}, 4), ({"data__batch": 2}, 2), ({"optim__micro_batch": 4, "encoder__batch_norm": "micro"}, 4)],
)
def test_the_smallest_step_is_a_valid_experiment(make_config: MakeConfig, change: dict[str, Any], least: int) -> None:
    config = make_config(**change)
    assert smallest(config) == least
    part = of_size(config, least)
    assert part.data.batch == least
    assert 0 < part.data.num_labelled < least
    assert part.resources.num_workers == 0


@pytest.mark.parametrize("b_s", [0, 0.05, 0.5, 0.95, 1])
def test_a_part_of_a_batch_keeps_its_streams(make_config: MakeConfig, b_s: float) -> None:
    for clips in (2, 4, 8):
        labelled = of_size(make_config(data__batch=40, data__b_s=b_s), clips).data.num_labelled
        assert (labelled > 0) == (b_s > 0)
        assert (labelled < clips) == (b_s < 1)


def test_steps_are_measured_in_a_process_of_their_own_whose_peak_is_its_whole_memory(make_config: MakeConfig) -> None:
    seen: list[Step] = []
    steps = measure_steps(make_config(), clips=8, gpu=False, threads=1, budget_s=0, watch=seen.append)
    assert [one.clips for one in steps] == [0, 4, 8]
    assert steps == seen
    assert all(one.host_bytes > 100 << 20 for one in steps)  # torch alone takes that
    assert steps[0].host_bytes <= steps[1].host_bytes <= steps[2].host_bytes
    assert min(one.seconds for one in steps[1:]) > 0
    assert steps[0].parameters > 0


def test_a_process_that_ends_before_its_first_step_is_named_with_its_last_words(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen
    words = "import sys; sys.exit('no memory')"
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: start([command[0], "-c", words], **options))
    with pytest.raises(RunError, match=r"a step of 4 clips could not be measured: .* 1: no memory; lower data.batch"):
        measure_steps(make_config(), clips=8, gpu=False, threads=1, budget_s=0, watch=lambda _: None)


def test_what_matters_comes_before_the_configuration(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "measure_steps", fake([step(0, 300, 0), step(4, 400, 1.0), step(8, 500, 2.0)]))
    config = make_config(data__batch=64, data__b_s=0.25, optim__steps=36)
    found = plan(config)
    assert list(found) == ["warnings", "estimate", "worker", "data", "config"]
    assert found["worker"]["memory_mib"] == 1900
    assert found["worker"]["seconds_a_step"] == 16
    assert found["estimate"]["hours"] == pytest.approx(0.16)
    assert [line.split(";")[0] for line in found["warnings"]] == [
        "every batch repeats clips: it draws 16 labelled clips and data.labelled has 12",
        "every batch repeats clips: it draws 48 unlabelled clips and data.unlabelled has 12",
    ]
    assert json.loads(json.dumps(found)) == found
    assert not Path(config.run.dir).exists()


def test_several_workers_take_their_share_and_ddps_buckets_in_25_lines(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(step(4, 400, 1.0), parameters=50 << 18)
    monkeypatch.setattr(plans, "measure_steps", fake([replace(one, clips=0), one]))
    found = plan(make_config(resources__num_workers=2))
    first, _, _ = yaml.safe_dump(found, sort_keys=False, allow_unicode=True).partition("config:")
    assert first.count("\n") == 25
    worker = found["worker"]
    assert worker["clips_a_step"] == 4
    assert worker["memory_mib"] == 450


def test_hundreds_of_epochs_are_warned_of(make_config: MakeConfig) -> None:
    shares = check(make_config(optim__steps=1000)).summary
    assert [line.split(";")[0] for line in repeats(shares)] == [
        "the run goes 333 times through the 12 labelled clips",
        "the run goes 333 times through the 12 unlabelled clips",
    ]
    assert repeats(check(make_config()).summary) == []
