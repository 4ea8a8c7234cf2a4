"""A space is refused before anything starts, with the path, the value and the remedy."""

from collections.abc import Mapping
from typing import Any

import pytest

from cluster.settings import ROOT, UserError, read_yaml, validate
from data_shards.sampling.sampler import check_world
from trainers.config import ExperimentConfig
from tuning.sweep.space import as_optuna, check_space, defaults, describe, place, read_space

BASE = read_yaml(ROOT / "conf/pretrain/quickstart.yaml")
WHERE = "sweep.yaml"


def refuse(space: Mapping[str, Any], workers: int = 1) -> str:
    """The message of a space that is refused."""
    with pytest.raises(UserError) as refused:
        check_space(read_space(space, WHERE), BASE, WHERE, lambda c: check_world(c.data.batch, workers))
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(WHERE)
    return message


@pytest.mark.parametrize(
    ("path", "spec", "words"),
    [
        ("loss.temprature", {"uniform": [0.1, 1]}, "did you mean loss.temperature?"),
        ("loss.temperature", {"uniform": [1, 0.1]}, "low end must be < its high end"),
        ("loss.temperature", {"log_uniform": [0, 0.1]}, "low end must be > 0"),
        ("loss.temperature", {"uniform": [-1, 0.1]}, "temperature must be > 0, got -1"),
        ("loss.temperature", {"uniform": [0.1, float("inf")]}, "finite"),
        ("loss.temperature", {"lg_uniform": [0.1, 1]}, "did you mean log_uniform?"),
        ("loss.temperature", {"uniform": [0.1]}, r"uniform takes [low, high]"),
        ("loss.temperature", {"uniform": ["a", "b"]}, "valid number"),
        ("loss.temperature", {"quantised": [0.1, 1, 0.2]}, "whole number of steps"),
        ("loss.temperature", {"quantised": [0.1, 1]}, "[low, high, step]"),
        ("loss.temperature", {"choice": [0.1]}, "two or more different values"),
        ("loss.temperature", {"uniform": [0.1, 1], "int": [1, 2]}, "is written"),
        ("loss", {"uniform": [0.1, 1]}, "should be an object"),
        ("views.count", {"uniform": [1, 3]}, "take {int: [low, high]}"),
        ("data.b_s", {"uniform": [0.001, 0.5]}, "no labelled one; take batch >= 500 or b_s >= 0.0156"),
        ("data.b_s", {"uniform": [0.5, 0.999]}, "no unlabelled one"),
        ("data.p_s", {"uniform": [0.0, 1.0]}, "p_s must be in (0, 1]"),
        ("augment.preset", {"choice": ["paper", "mule_pich"]}, "try mule_pitch"),
        ("run.keep", {"int": [1, 3]}, "the sweep sets run"),
        ("seed", {"int": [1, 3]}, "the sweep sets"),
    ],
)
def test_what_cannot_be_is_one_message_with_the_remedy(path: str, spec: dict[str, Any], words: str) -> None:
    message = refuse({path: spec})
    assert path in message
    assert words in message


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(UserError, match="space is empty"):
        read_space({}, WHERE)


def test_what_two_paths_forbid_together_is_found_at_their_corners() -> None:
    shares = refuse({"data.b_s": {"uniform": [0.05, 0.5]}, "data.batch": {"int": [8, 64, 8]}})
    assert "data.b_s = 0.05 with data.batch = 8" in shares
    crossing: dict[str, dict[str, Any]] = {
        "augment.noise.min_snr_in_db": {"uniform": [0, 20]},
        "augment.noise.max_snr_in_db": {"uniform": [10, 40]},
    }
    assert "min_snr_in_db must be <= max_snr_in_db" in refuse(crossing)


@pytest.mark.parametrize("batches", [[32, 64], [32, 400]])
def test_a_batch_between_the_ends_that_the_workers_do_not_divide_is_found(batches: list[int]) -> None:
    assert "2 ranks do not divide data.batch = 33" in refuse({"data.batch": {"int": batches}}, workers=2)
    fitting = read_space({"data.batch": {"int": [32, 400, 2]}}, WHERE)
    check_space(fitting, BASE, WHERE, lambda c: check_world(c.data.batch, 2))


def test_a_point_is_placed_over_the_preset_and_its_numbers_can_be_typed() -> None:
    tree = place(BASE, {"loss.temperature": 0.123456789, "augment.preset": "mule_pitch", "data.batch": 32})
    config = validate(ExperimentConfig, tree, WHERE)
    assert (config.loss.temperature, config.data.batch, config.optim.steps) == (0.123457, 32, BASE["optim"]["steps"])
    assert config.augment.pitch.p == 0.6
    assert "loss" not in BASE


def test_the_preset_is_a_point_where_the_space_holds_it() -> None:
    held = read_space({"data.b_s": {"quantised": [0.1, 0.9, 0.2]}, "data.batch": {"int": [32, 128, 32]}}, WHERE)
    assert defaults(held, BASE) == {"data.b_s": 0.5, "data.batch": 64}
    assert defaults(read_space({"data.b_s": {"quantised": [0.1, 0.9, 0.4]}}, WHERE), BASE) == {"data.b_s": 0.5}
    assert defaults(read_space({"data.b_s": {"quantised": [0.2, 0.8, 0.2]}}, WHERE), BASE) is None
    assert defaults(read_space({"data.b_s": {"uniform": [0.6, 0.9]}}, WHERE), BASE) is None


def test_a_space_is_described_as_it_was_written() -> None:
    written: dict[str, dict[str, Any]] = {
        "a": {"uniform": [0.1, 0.9]},
        "b": {"log_uniform": [0.01, 1.0]},
        "c": {"int": [1, 9, 2]},
        "d": {"quantised": [0.0, 1.0, 0.25]},
        "e": {"choice": ["x", 1, None]},
    }
    assert describe(read_space(written, WHERE)) == written


def test_what_optuna_samples_lies_in_the_space() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = read_space(
        {"r": {"log_uniform": [0.01, 1.0]}, "n": {"int": [2, 10, 4]}, "q": {"quantised": [0.1, 0.7, 0.2]}}, WHERE
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [study.ask({path: as_optuna(one) for path, one in space.items()}).params for _ in range(40)]
    assert {point["n"] for point in drawn} == {2, 6, 10}
    assert {round(point["q"], 6) for point in drawn} == {0.1, 0.3, 0.5, 0.7}
    below = sum(point["r"] < 0.1 for point in drawn)
    assert 10 < below < 30
