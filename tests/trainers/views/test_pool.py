"""The pool of view actors: the trainer's numbers, through a kill, and what it refuses."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from cluster.machine.placement import Bundle, Machine
from cluster.ray_runtime.session import ray_session
from cluster.settings import RunError, UserError
from data_shards.format.records import Batch
from trainers.config import ExperimentConfig, may_differ_on_resume
from trainers.distributed.world import reserved
from trainers.pretrain import pretrain
from trainers.state.metrics_log import read_metrics
from trainers.state.snapshot import open_snapshot
from trainers.views.config import ViewsConfig
from trainers.views.pool import ViewPool, num_processes
from trainers.views.views import ViewMaker, Views, stream_views, window_frames

MakeConfig = Callable[..., ExperimentConfig]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session(workers=3, dashboard=False):
        yield


def batch(config: ExperimentConfig, step: int, clips: int = 6) -> Batch:
    """Noise; one clip shorter than a view."""
    window = window_frames(config.views, config.augment)
    wave = (3000 * torch.randn(clips, window, generator=torch.Generator().manual_seed(step))).to(torch.int16)
    frames = torch.tensor([config.views.samples // 2] + [window] * (clips - 1))
    ids = torch.arange(clips) + 10 * step
    return Batch(wave, frames, ids, torch.eye(clips, dtype=torch.bool), torch.arange(clips))


def maker(config: ExperimentConfig) -> ViewMaker:
    return ViewMaker(config.views, config.augment, config.frontend)


def assert_same(one: Views, other: Views) -> None:
    tensors = [(*views[:3], *views.parameters) for views in (one, other)]
    for number, (here, there) in enumerate(zip(*tensors, strict=True)):
        assert here.dtype == there.dtype
        assert torch.equal(here, there), number


@pytest.fixture
def view_actors(running_below: Callable[[str], list[int]]) -> Callable[[], list[int]]:
    """Processes below this one that make views."""
    return lambda: running_below("ray::ViewActor")


@pytest.mark.ray
def test_a_pool_makes_the_trainers_views_bit_for_bit_in_order_through_a_kill_and_leaves_nobody_behind(
    ray: None, make_config: MakeConfig, view_actors: Callable[[], list[int]]
) -> None:
    config = make_config(resources__num_workers=1, views__placement="pool", views__pool_workers=2)
    steps = range(3, 9)
    asked = []

    def batches() -> Iterator[tuple[int, Batch]]:
        for step in steps:
            asked.append(step)
            if step == 7:  # those of 5 and 6 were sent already, this one goes to an actor that is dead
                for pid in view_actors():
                    os.kill(pid, signal.SIGKILL)
            yield step, batch(config, step)

    expected = stream_views(maker(config), ((step, batch(config, step)) for step in steps), seed=5)
    made = ViewPool(config)(maker(config), batches(), seed=5)
    for step, views in zip(steps, expected, strict=True):
        assert_same(views, next(made))
        assert asked[-1] <= step + config.views.pool_workers  # bounded: no more than that is ahead
        if step == 4:  # each has made one by now; at 3 the second may still be starting
            assert len(view_actors()) == 2
    assert next(made, None) is None
    with suppress(psutil.NoSuchProcess):
        psutil.wait_procs([psutil.Process(pid) for pid in view_actors()], timeout=20)
    assert view_actors() == []


@pytest.mark.ray
def test_an_actor_that_dies_too_often_ends_the_run_with_a_reason(
    ray: None, make_config: MakeConfig, view_actors: Callable[[], list[int]]
) -> None:
    config = make_config(resources__num_workers=1, resources__max_failures=0, views__placement="pool")
    made = ViewPool(config)(maker(config), ((step, batch(config, step)) for step in range(9)), seed=0)
    next(made)
    for pid in view_actors():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunError, match=r"died more often than resources\.max_failures=0 .*views\.chunk"):
        for _ in made:
            pass


@pytest.mark.ray
def test_actors_without_resources_are_an_error_and_no_endless_wait(ray: None, make_config: MakeConfig) -> None:
    config = make_config(
        resources__num_workers=1, resources__cpus_per_worker=99, resources__health_timeout_s=1, views__placement="pool"
    )
    made = ViewPool(config)(maker(config), [(0, batch(config, 0))], seed=0)
    with pytest.raises(RunError, match="it needs 1 view actors of 99 CPUs and 0 GPUs each"):
        next(made)


HEADS = {"head__variant": ("pitch", "stretch"), "augment__preset": "loev", "views__count": 3}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("heads", [{}, HEADS], ids=["one-head", "heads-that-leave-an-effect-out"])
def test_a_run_learns_the_same_from_a_pool(
    ray: None, make_config: MakeConfig, tmp_path: Path, heads: dict[str, object]
) -> None:
    alone = make_config(resources__threads_per_worker=1, optim__steps=4, run__dir=str(tmp_path / "alone"), **heads)
    resources = replace(alone.resources, num_workers=1)
    pooled = replace(
        alone,
        resources=resources,
        views=replace(alone.views, placement="pool"),
        run=replace(alone.run, dir=str(tmp_path / "pooled")),
    )
    for config in (alone, pooled):
        assert pretrain(config) == 0
    rows = [list(read_metrics(Path(c.run.dir) / "metrics.jsonl")) for c in (alone, pooled)]
    names = [name for name in rows[0][0] if name.split("/")[0] in ("loss", "anchors", "alignment")]
    losses = [[[row[name] for name in names] for row in run] for run in rows]
    assert losses[0] == losses[1]
    one, other = (open_snapshot(c.run.dir).path / "model.safetensors" for c in (alone, pooled))
    assert one.read_bytes() == other.read_bytes()


def test_a_pool_without_ray_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"views\.placement=pool needs Ray"):
        make_config(views__placement="pool", resources__num_workers=0)


def test_a_pool_of_nobody_and_a_share_above_one_are_refused() -> None:
    with pytest.raises(ValueError, match="pool_workers must be >= 1, got 0"):
        ViewsConfig(pool_workers=0)
    with pytest.raises(ValueError, match=r"pool_gpus must be in \[0, 1\], got 1.5"):
        ViewsConfig(pool_gpus=1.5)


def test_a_resumed_run_may_move_its_views(make_config: MakeConfig) -> None:
    assert all(may_differ_on_resume(f"views.{key}") for key in ("placement", "pool_workers", "pool_gpus"))
    assert not may_differ_on_resume("views.count")


def test_a_pool_of_more_gpus_than_there_are_is_refused_with_what_would_fit(make_config: MakeConfig) -> None:
    pool = {"resources__num_workers": 2, "views__placement": "pool", "views__pool_workers": 2}
    tight = make_config(**pool, resources__use_gpu="auto", views__pool_gpus=0.25)
    there = [Machine(address="a", cpus=8, gpus=2)]
    wanted = (
        r"the run needs 2 workers of 1 core and 1 GPU, 4 view actors of 1 core and 0\.25 GPUs, the cluster has "
        r"1 machine of 8 cores and 2 GPUs \(a\); lower .* or resources\.gpus_per_worker or views\.pool_workers or "
    )
    with pytest.raises(UserError, match=wanted):
        reserved(tight, there, workers=2, what="the run")
    shared = make_config(**pool, resources__use_gpu="auto", resources__gpus_per_worker=0.5, views__pool_gpus=0.25)
    assert [one.gpus for one in reserved(shared, there, workers=2, what="the run")] == [0.5] * 2 + [0.25] * 4
    without = reserved(make_config(**pool), [Machine(address="a", cpus=8)], workers=2, what="the run")
    assert without == [Bundle(cpus=1)] * 2 + [Bundle(cpus=1, kind="view actor")] * 4
    assert num_processes(tight) == 6
    assert num_processes(make_config(resources__num_workers=2)) == 2
