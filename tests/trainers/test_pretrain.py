"""What the driver refuses before anything is taken. The runs themselves: tests/distributed/test_ray_training.py."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.files.locks import sole_writer
from cluster.files.storage import sha256
from cluster.settings import UserError
from cluster.tracking import Tracker
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import SAMPLE_RATE
from data_shards.read.reader import ShardSet
from data_shards.sources.synthetic.corpus import SyntheticConfig, corpus
from trainers.checks.dry_run import plan
from trainers.checks.start_up import check
from trainers.config import ExperimentConfig
from trainers.distributed.failures import explain, note_place
from trainers.distributed.world import world_of_torchrun, world_sizes
from trainers.frontends.frontend import build_frontend
from trainers.model import build_encoder
from trainers.pretrain import pretrain
from trainers.state import snapshot
from trainers.state.metrics_log import MetricsLog
from trainers.state.snapshot import open_snapshot

MakeConfig = Callable[..., ExperimentConfig]


def test_workers_that_do_not_divide_the_batch_are_refused_before_ray_starts(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="3 ranks do not divide"):
        pretrain(make_config(resources__num_workers=3))
    assert not Path(make_config().run.dir).exists()


@pytest.mark.parametrize("asked", [0, 1, 4])
def test_under_torchrun_the_world_is_torchruns(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    config = make_config(resources__num_workers=asked)
    assert world_of_torchrun(config) is config
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert world_of_torchrun(config).resources.num_workers == 0


@pytest.mark.parametrize(
    "keys", [{"resources__num_workers": 3}, {"resources__num_workers": 4, "resources__min_workers": 2}]
)
def test_workers_of_ray_under_torchrun_are_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, keys: dict[str, int]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"torchrun started 4 ranks, and resources.num_workers=\d.*leave them out"):
        check(make_config(**keys))


def test_a_finished_run_under_torchrun_ends_every_rank_at_once(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(optim__steps=1)
    assert pretrain(config) == 0
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")  # no address of rank 0: a process group would be an error
    assert pretrain(config) == 0


def test_a_share_that_rounds_to_nothing_is_refused_with_sizes_that_work(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"no labelled one; take batch >= 50"):
        make_config(data__b_s=0.01)


def test_a_uri_as_the_runs_folder_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="a folder that all nodes mount"):
        pretrain(make_config(run__dir="s3://bucket/run"))


def test_the_check_returns_realised_shares(make_config: MakeConfig) -> None:
    start = check(make_config(data__batch=10, data__b_s=0.25))
    summary, data_hash = start.summary, start.data_hash
    assert summary["labelled_a_batch"] == 3
    assert summary["b_s_realised"] == pytest.approx(0.3)
    assert len(data_hash.split(":")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"views__samples": 6614},
            r"views.samples=6614 is too short: encoder.name=mel_cnn reads at least 16 frames of 64 "
            r"bands; take views.samples >= 6615",
        ),
        ({"frontend__kind": "mule", "views__samples": 3306}, r"take views.samples >= 3307"),
        (
            {
                "encoder__name": "sample_cnn",
                "encoder__channels": None,
                "frontend__kind": "wave",
                "views__samples": 59_048,
            },
            r"encoder.name=sample_cnn reads at least 59049 samples; take views.samples >= 59049",
        ),
        (
            {"encoder__name": "tune_plus", "encoder__channels": None, "frontend__kind": "wave"},
            r"take views.samples >= 59049",
        ),
        ({"frontend__num_mels": 63}, r"encoder.name=mel_cnn reads at least 64 bands, got frontend.num_mels=63"),
    ],
)
def test_views_too_small_for_the_encoder_are_refused_with_the_least_value(
    make_config: MakeConfig, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**change)


@pytest.mark.parametrize("change", [{"views__samples": 6615}, {"frontend__kind": "mule", "views__samples": 3307}])
def test_the_least_value_is_enough_and_one_sample_less_is_not(make_config: MakeConfig, change: dict[str, Any]) -> None:
    config = make_config(**change)
    frontend, encoder = build_frontend(config.frontend, SAMPLE_RATE), build_encoder(config.encoder).eval()
    with torch.no_grad():
        assert encoder(frontend(torch.zeros(1, config.views.samples))).shape == (1, encoder.width)
        with pytest.raises(RuntimeError, match="Output size is too small"):
            encoder(frontend(torch.zeros(1, config.views.samples - 1)))


def test_shards_of_another_rate_are_refused_by_name(make_config: MakeConfig, tmp_path: Path) -> None:
    clips = corpus(SyntheticConfig(tracks=8, seconds=4.0, valid_share=0.0, test_share=0.0))
    build(clips, tmp_path / "low", BuildConfig(workers=1, rate=16_000))
    config = make_config(data__unlabelled=str(tmp_path / "low"), data__b_s=0)
    for refuse in (check, plan):
        with pytest.raises(UserError, match=r"data.unlabelled=.*low: 16,000 Hz, but training expects 22,050 Hz"):
            refuse(config)


def test_what_workers_would_refuse_is_refused_before_anything_starts(make_config: MakeConfig, tmp_path: Path) -> None:
    other = make_config(run__dir=str(tmp_path / "other"), encoder__channels=3, optim__steps=1)
    assert pretrain(other) == 0
    wrong: dict[str, dict[str, Any]] = {
        "no snapshot here": {"init_from": str(tmp_path / "nowhere")},
        "does not fit this encoder and head": {"init_from": other.run.dir},
        "give data.labelled=DIR": {"run__quick_every": 1, "data__labelled": None, "data__b_s": 0},
        "checkpoint_blocks=9: the encoder has": {"optim__checkpoint_blocks": 9},
        "optim.micro_batch=3 does not divide .*; take 2": {
            "optim__micro_batch": 3,
            "encoder__batch_norm": "micro",
        },
    }
    for message, change in wrong.items():
        for refuse in (check, plan, pretrain):
            with pytest.raises(UserError, match=message):
                refuse(make_config(**change))
    assert not Path(make_config().run.dir).exists()


def test_a_dry_run_refuses_a_folder_that_holds_another_experiment(make_config: MakeConfig) -> None:
    assert pretrain(make_config(optim__steps=1)) == 0
    with pytest.raises(UserError, match="holds another experiment"):
        plan(make_config(optim__steps=1, seed=9))


def test_metrics_of_an_attempt_without_a_snapshot_are_not_handed_on(make_config: MakeConfig) -> None:
    config = make_config(optim__steps=3)
    log = MetricsLog(Path(config.run.dir) / "metrics.jsonl")
    for step in range(1, 6):
        log.write({"step": step, "loss": 99.0})
    seen: list[Mapping[str, Any]] = []
    assert pretrain(config, watch=seen.append) == 0
    assert [row["step"] for row in seen] == [1, 2, 3]
    assert all(row["loss"] < 99 for row in seen)


def test_a_start_opens_each_set_once_and_verifies_the_snapshot_once(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain(make_config(optim__steps=2)) == 0
    last = open_snapshot(make_config().run.dir).path
    opened: list[str] = []
    hashed: list[Path] = []
    init = ShardSet.__init__

    def count_set(self: ShardSet, store: Any, **options: Any) -> None:
        opened.append(store.uri)
        init(self, store, **options)

    def count_hash(file: Path) -> str:
        hashed.append(file)
        return sha256(file)

    monkeypatch.setattr(ShardSet, "__init__", count_set)
    monkeypatch.setattr(snapshot, "sha256", count_hash)
    config = make_config(optim__steps=4)
    assert pretrain(config) == 0
    assert sorted(opened) == sorted([config.data.labelled, config.data.unlabelled])  # type: ignore[type-var]
    assert sorted(file for file in hashed if file.parent == last) == sorted(
        file for file in last.iterdir() if file.name != snapshot.CHECKSUMS
    )


@pytest.mark.parametrize("tracked", [True, False])
def test_a_folder_that_another_process_trains_in_is_left_alone(make_config: MakeConfig, tracked: bool) -> None:
    config = make_config(optim__steps=1)
    config = replace(config, tracking=replace(config.tracking, enabled=tracked))
    folder = Path(config.run.dir)
    with sole_writer(folder, "wait"):
        (folder / "stop").touch()  # a request to the run under way
        with pytest.raises(UserError, match=f"{folder}: another process is running there.*or choose another run.dir"):
            pretrain(config)
        assert sorted(path.name for path in folder.iterdir()) == ["lock", "stop"]
    assert pretrain(config) == 0


@pytest.mark.parametrize(("b_s", "read"), [(0.5, ["labelled", "unlabelled"]), (0, ["unlabelled"])])
def test_mlflow_gets_each_set_that_is_read_with_its_own_manifest(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, b_s: float, read: list[str]
) -> None:
    logged: list[tuple[str, str, str]] = []
    monkeypatch.setattr(Tracker, "dataset", lambda _, name, digest, source: logged.append((name, digest, source)))
    config = make_config(optim__steps=1, data__b_s=b_s)
    pretrain(config)
    assert [name for name, _, _ in logged] == read
    for name, digest, source in logged:
        assert source == getattr(config.data, name)
        assert digest == json.loads((Path(source) / "manifest.json").read_text())["hash"]


class TrainingFailedError(Exception):
    """As Ray's: what each worker raised, by rank."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("training failed")
        self.worker_failures = failures


def test_what_workers_raised_is_one_message_with_logs_and_the_way_on(tmp_path: Path) -> None:
    note_place(tmp_path, {"rank": 1, "world": 2, "node": "10.0.0.3", "log": "/tmp/worker.err"})
    error = explain(TrainingFailedError({1: OSError("trace\nlast words"), 0: RuntimeError("first")}), tmp_path, "LOGS")
    assert "worker 0: first; worker 1 on 10.0.0.3 (log /tmp/worker.err): last words" in str(error)
    assert "LOGS" in str(error)
    assert "The same command resumes" in str(error)


@pytest.mark.parametrize(
    "reason",
    ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory: you tried", "the node running low on memory"],
)
def test_a_worker_out_of_memory_is_named_with_a_batch_to_try(tmp_path: Path, reason: str) -> None:
    failure = TrainingFailedError({0: RuntimeError(reason)})
    assert "half of data.batch" in str(explain(failure, tmp_path, "LOGS"))


def test_an_elastic_run_has_the_numbers_of_workers_that_divide_its_batch(make_config: MakeConfig) -> None:
    batch = {"data__batch": 12, "resources__num_workers": 6}
    assert world_sizes(make_config(**batch)) == [6]
    assert world_sizes(make_config(**batch, resources__min_workers=2)) == [2, 3, 4, 6]
    micro = make_config(**batch, resources__min_workers=1, optim__micro_batch=3, encoder__batch_norm="micro")
    assert world_sizes(micro) == [1, 2, 4]


def test_workers_that_cannot_share_the_batch_are_refused_with_numbers_that_can(
    make_config: MakeConfig,
) -> None:
    config = make_config(data__batch=14, resources__num_workers=6, resources__min_workers=3)
    with pytest.raises(UserError, match=r"min_workers=3 to .*=6 shares data\.batch=14 evenly; 1, 2, 7, 14 do"):
        check(config)
    assert world_sizes(make_config(data__batch=14, resources__num_workers=6, resources__min_workers=2)) == [2]
