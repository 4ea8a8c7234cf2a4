"""Shards in S3, behind moto's server: read as from disk, cached, checked, and no credential in any message."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from cluster.settings import RunError, UserError, load_config
from data_shards.build.build import BuildConfig, build
from data_shards.format.problems import ShardError
from data_shards.inspect.show import summarise
from data_shards.read.loader import BatchLoader
from data_shards.read.reader import ShardSet
from data_shards.read.stores import open_index
from data_shards.sampling.config import DataConfig
from data_shards.sources.folder import read_folder

MakeFolder = Callable[..., tuple[Path, Path]]
SECRET, KEY_ID = "a-secret-that-nobody-may-read", "AKIDOFNOBODY"
FRAMES = 40_000
URI = "s3://bucket/sets/mine"


SENT: Counter[str] = Counter()
"""Bytes that the server sent of each object."""


def counting(app: Any) -> Any:
    """A WSGI application that counts what it answers to GET."""

    def answer(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        for part in app(environ, start):
            if environ["REQUEST_METHOD"] == "GET":
                SENT[environ["PATH_INFO"]] += len(part)
            yield part

    return answer


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 of one's own."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install .[s3]")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed: pip install .[dev]")
    log = logging.getLogger("werkzeug")
    level = log.level
    log.setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    running._server.app = counting(running._server.app)
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()
    log.setLevel(level)


@pytest.fixture
def environment(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a user sets, and nothing else: address and credentials."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()  # a connection remembers the environment it was made in
    yield
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def stored(environment: None, make_folder: MakeFolder, tmp_path: Path) -> Iterator[Path]:
    """A set in the bucket, and its twin on disk."""
    folder = tmp_path / "set"
    build(read_folder(*make_folder(6, frames=FRAMES)).clips, folder, BuildConfig(clips_per_shard=2, workers=1))
    s3 = fsspec.filesystem("s3")
    s3.mkdir("bucket")
    for path in folder.iterdir():
        s3.pipe_file(f"bucket/sets/mine/{path.name}", path.read_bytes())
    yield folder
    s3.rm("bucket", recursive=True)


def test_windows_from_s3_are_those_on_disk_and_each_shard_comes_once(stored: Path, tmp_path: Path) -> None:
    cache, rng = tmp_path / "cache", np.random.default_rng(0)
    with ShardSet.open(URI, cache=cache) as remote, ShardSet.open(stored) as local:
        assert remote.manifest_hash == local.manifest_hash
        assert not list(cache.glob("*.tar"))  # opening fetches the index alone
        for _ in range(20):
            row, start = int(rng.integers(6)), int(rng.integers(FRAMES - 1_000))
            assert np.array_equal(remote.read_window(row, start, 1_000), local.read_window(row, start, 1_000))
    copies = sorted(path.read_bytes() for path in cache.glob("*.tar"))
    assert copies == sorted(path.read_bytes() for path in stored.glob("*.tar"))
    fsspec.filesystem("s3").rm([f"bucket/sets/mine/shard-0000{number}.tar" for number in range(3)])
    with ShardSet.open(URI, cache=cache) as remote:
        assert remote.read_window(4, 0, 1)[0] == 4  # from the cache


def test_what_a_set_in_s3_holds_is_shown_without_its_shards(stored: Path) -> None:
    fsspec.filesystem("s3").rm([f"bucket/sets/mine/shard-0000{number}.tar" for number in range(3)])
    index = open_index(URI)
    assert summarise(index) == summarise(open_index(str(stored)))


def test_a_batch_is_drawn_from_s3(stored: Path, tmp_path: Path) -> None:
    """The tag of a row is that of its audio, and both are those of the set on disk."""

    def draw(**fields: str) -> BatchLoader:
        config = load_config(DataConfig, None, {"batch": 4, "b_s": 1.0, **fields})
        return BatchLoader(config, frames=1_000, seed=0)

    with draw(labelled=URI, cache=str(tmp_path / "cache")) as remote, draw(labelled=str(stored)) as local:
        for one, other in zip(remote.batches(0, 3), local.batches(0, 3), strict=True):
            assert (one.wave_BT == other.wave_BT).all()
            assert (one.labels_BC == other.labels_BC).all()


@pytest.mark.parametrize("machines", [1, 2, 4, 8])
def test_machines_with_stripes_fetch_a_set_from_s3_once_an_epoch(
    environment: None, make_folder: MakeFolder, tmp_path: Path, machines: int
) -> None:
    """Bytes that the server sent; eight ranks on so many machines, each with a cache of its own."""
    built, world, batch = tmp_path / "built", 8, 16
    clips = read_folder(*make_folder(64, frames=3_000, split=["train"] * 64)).clips
    build(clips, built, BuildConfig(clips_per_shard=2, workers=1))
    s3, place = fsspec.filesystem("s3"), f"striped-{machines}"
    s3.mkdir(place)
    for path in built.iterdir():
        s3.pipe_file(f"{place}/set/{path.name}", path.read_bytes())
    for machine in range(machines):
        for rank in range(machine * world // machines, (machine + 1) * world // machines):
            fields = {"unlabelled": f"s3://{place}/set", "cache": str(tmp_path / f"machine-{machine}")}
            config = load_config(DataConfig, None, {"batch": batch, "b_s": 0.0, "stripes": world, **fields})
            with BatchLoader(config, frames=100, seed=1, rank=rank, world=world, num_threads=1) as loader:
                assert len(list(loader.batches(0, 6))) == 6
    size = sum(path.stat().st_size for path in built.glob("*.tar"))
    sent = sum(count for name, count in SENT.items() if name.startswith(f"/{place}/") and name.endswith(".tar"))
    assert 0.95 * size <= sent <= 1.05 * size


def test_a_shard_that_is_not_the_one_that_was_indexed_is_refused(stored: Path, tmp_path: Path) -> None:
    s3, name = fsspec.filesystem("s3"), "bucket/sets/mine/shard-00001.tar"
    whole = s3.cat_file(name)
    with ShardSet.open(URI, cache=tmp_path / "cache") as shards:
        flipped = whole[:5_000] + bytes([whole[5_000] ^ 1]) + whole[5_001:]
        for content, what in ((flipped, "SHA-256 differs"), (whole[:-512], "bytes came")):
            s3.pipe_file(name, content)
            with pytest.raises(ShardError, match=rf"shard-00001\.tar: .*{what}"):
                shards.read_window(2, 0, 10)
        assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix in (".tar", ".part")]
        s3.pipe_file(name, whole)
        assert shards.read_window(2, 0, 1)[0] == 2


def test_the_cache_of_s3_stays_below_its_bound(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_shards.read.reader.MAX_OPEN_SHARDS", 1)
    size = max(path.stat().st_size for path in stored.glob("*.tar"))
    with ShardSet.open(URI, cache=tmp_path / "cache", cache_bytes=2 * size) as shards:
        for row in (0, 2, 4, 0, 2, 4):
            assert shards.read_window(row, 0, 1)[0] == row
            assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) <= 2 * size


@pytest.mark.parametrize("what", ["no such set", "no such bucket", "refused", "unreachable"])
def test_what_cannot_be_reached_is_one_message_without_credentials(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    uri = {"no such set": "s3://bucket/nothing", "no such bucket": "s3://nowhere/set"}.get(what, URI)
    if what == "refused":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("HOME", str(tmp_path))
    if what == "unreachable":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setattr("cluster.files.storage.time.sleep", lambda _: None)
    with caplog.at_level(logging.DEBUG), pytest.raises((ShardError, RunError)) as caught:
        ShardSet.open(uri, cache=tmp_path / "cache")
    missing = f"{uri}: not a set of shards that can be reached: "
    away = f"{uri}/manifest.json: cannot read after 4 attempts"
    assert str(caught.value).startswith(missing if "no such" in what else away)
    assert "\n" not in str(caught.value)
    assert SECRET not in f"{caught.value}{caplog.text}"


def test_a_shard_that_is_gone_stops_the_run_with_its_uri(stored: Path, tmp_path: Path) -> None:
    with ShardSet.open(URI, cache=tmp_path / "cache", retry_delays_s=(0.0,)) as shards:
        fsspec.filesystem("s3").rm("bucket/sets/mine/shard-00002.tar")
        with pytest.raises(RunError, match=rf"{URI}/shard-00002\.tar: cannot be opened after 2 attempts"):
            shards.read_window(5, 0, 10)


def test_a_uri_with_credentials_is_refused_before_it_is_logged_anywhere() -> None:
    with pytest.raises(UserError, match=r"labelled must hold no credentials") as caught:
        load_config(DataConfig, None, {"labelled": f"https://ann:{SECRET}@host/set"})
    assert SECRET not in str(caught.value)
