"""How many workers an elastic run has; the runs themselves: tests/distributed and tests/cluster_nodes."""

import pytest
from ray.train import ScalingConfig

from cluster.machine.resources import ResourcesConfig, train_environment
from trainers.distributed.ray_train import DividingPolicy, _scaling


@pytest.mark.parametrize(("cores", "workers"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 6), (48, 6)])
def test_an_elastic_run_takes_the_most_workers_that_divide_its_batch(cores: int, workers: int) -> None:
    resources = ResourcesConfig(num_workers=6, min_workers=1)
    policy = DividingPolicy(_scaling(resources, 6, gpu=False), [1, 2, 3, 4, 6])  # of a batch of twelve
    nodes = {f"node-{number}": {"CPU": 1.0} for number in range(cores)}
    assert policy._count_possible_workers(nodes) == workers


def test_a_fixed_number_is_left_to_ray() -> None:
    scaling: ScalingConfig = _scaling(ResourcesConfig(num_workers=3), 3, gpu=True)
    assert scaling.num_workers == 3
    assert scaling.use_gpu


def test_rays_controller_is_environment_every_time_out() -> None:
    environment = train_environment(ResourcesConfig(collective_timeout_s=7, health_timeout_s=8, start_timeout_s=9))
    assert set(environment.values()) == {"1", "7", "8", "9"}
