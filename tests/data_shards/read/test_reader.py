"""Reading windows: exact samples from any place, from any storage, through a cache that stays small."""

import functools
import http.server
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from cluster.settings import RunError, UserError
from data_shards.build.build import BuildConfig, build
from data_shards.format.problems import ShardError
from data_shards.read.reader import ShardSet
from data_shards.sources.folder import read_folder

MakeFolder = Callable[..., tuple[Path, Path]]
FRAMES = 90_000


@pytest.fixture(params=["pcm16", "flac"])
def built(request: pytest.FixtureRequest, make_folder: MakeFolder, tmp_path: Path) -> Path:
    config = BuildConfig(clips_per_shard=2, codec="flac" if request.param == "flac" else "pcm16", workers=1)
    build(read_folder(*make_folder(6, frames=FRAMES)).clips, tmp_path / "set", config)
    return tmp_path / "set"


def truth(built: Path, row: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    wave, _ = soundfile.read(built.parent / f"music/sub/{row:03d}.wav", dtype="int16")
    return np.asarray(wave, np.int16)


@pytest.mark.parametrize("checksums", [True, False])
def test_a_window_is_the_clips_samples_at_that_place(built: Path, checksums: bool) -> None:
    rng = np.random.default_rng(0)
    with ShardSet.open(built, checksums=checksums) as shards:
        for _ in range(60):
            row, start = int(rng.integers(6)), int(rng.integers(FRAMES))
            frames = int(rng.integers(1, FRAMES - start + 1))
            assert np.array_equal(shards.read_window(row, start, frames), truth(built, row)[start : start + frames])
        assert np.array_equal(shards.read_window(3, 0, FRAMES), truth(built, 3))


@pytest.mark.parametrize(("start", "frames"), [(-1, 10), (0, FRAMES + 1), (FRAMES, 1), (FRAMES - 5, 6)])
def test_a_window_outside_the_clip_is_refused(built: Path, start: int, frames: int) -> None:
    with ShardSet.open(built) as shards, pytest.raises(ValueError, match="is not inside"):
        shards.read_window(0, start, frames)


def test_threads_share_a_set(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_shards.read.reader.MAX_OPEN_SHARDS", 1)  # files are closed and opened all the time
    with ShardSet.open(built) as shards, ThreadPoolExecutor(8) as pool:
        rows = np.random.default_rng(0).integers(0, 6, 300).tolist()
        for row, wave in zip(rows, pool.map(lambda row: shards.read_window(row, 0, 70_000), rows), strict=True):
            assert wave[0] == row
        assert len(shards._open) == 1


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closing_leaves_no_file_open(built: Path) -> None:
    before = num_open()
    with ShardSet.open(built) as shards:
        for row in range(6):
            shards.read_window(row, 0, 10)
        assert num_open() == before + 3
    assert num_open() == before


# --- other storage ---


@pytest.fixture
def in_memory(built: Path) -> Iterator[str]:
    """The set in fsspec's memory file system."""
    memory = fsspec.filesystem("memory")
    for path in built.iterdir():
        memory.pipe_file(f"/shards/{path.name}", path.read_bytes())
    yield "memory://shards"
    memory.rm("/shards", recursive=True)


@pytest.fixture
def over_http(built: Path) -> Iterator[str]:
    """The set behind a local HTTP server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(built)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_set_in_memory_reads_as_the_one_on_disk(built: Path, in_memory: str, tmp_path: Path) -> None:
    with ShardSet.open(in_memory, cache=tmp_path / "cache") as remote, ShardSet.open(built) as local:
        assert remote.manifest_hash == local.manifest_hash
        for row in range(6):
            assert np.array_equal(remote.read_window(row, 33, 5_000), local.read_window(row, 33, 5_000))
    copies = list((tmp_path / "cache").glob("*.tar"))
    assert sorted(path.read_bytes() for path in copies) == sorted(path.read_bytes() for path in built.glob("*.tar"))


def test_a_set_behind_http_is_fetched_once(built: Path, over_http: str, tmp_path: Path) -> None:
    with ShardSet.open(over_http, cache=tmp_path / "cache") as shards:
        assert np.array_equal(shards.read_window(5, 0, FRAMES), truth(built, 5))
        assert len(list((tmp_path / "cache").glob("*.tar"))) == 1
    for shard in built.glob("*.tar"):
        if shard.name != "shard-00002.tar":
            shard.unlink()
    (built / "shard-00002.tar").write_bytes(b"")  # what is in the cache is not asked for again
    with ShardSet.open(over_http, cache=tmp_path / "cache", retry_delays_s=(0.0,)) as shards:
        assert np.array_equal(shards.read_window(4, 0, FRAMES), truth(built, 4))
        with pytest.raises(RunError, match=r"shard-00000\.tar: cannot be opened after 2 attempts"):
            shards.read_window(0, 0, 10)


def test_a_remote_shard_that_was_replaced_or_cut_is_refused(in_memory: str, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    whole = memory.cat_file("/shards/shard-00001.tar")
    with ShardSet.open(in_memory, cache=tmp_path / "cache") as shards:
        for content, what in ((whole[:-7], "bytes came"), (whole[:-1] + b"x", "SHA-256"), (whole * 2, "bytes came")):
            memory.pipe_file("/shards/shard-00001.tar", content)
            with pytest.raises(ShardError, match=rf"shard-00001\.tar: .*{what}"):
                shards.read_window(2, 0, 10)
    assert not list((tmp_path / "cache").glob("*.tar")) + list((tmp_path / "cache").glob("*.part"))


def test_the_cache_stays_below_its_bound_and_keeps_what_was_used_last(
    built: Path, in_memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_shards.read.reader.MAX_OPEN_SHARDS", 1)
    size = max(path.stat().st_size for path in built.glob("*.tar"))
    cache = tmp_path / "cache"
    with ShardSet.open(in_memory, cache=cache, cache_bytes=2 * size + 10) as shards:
        used: list[str] = []
        for row in (0, 2, 0, 4, 0, 2, 4, 0):
            assert shards.read_window(row, 0, 10)[0] == row
            name = shards.index.shards[int(shards.index.shard[row])].sha256
            used = [*(other for other in used if other != name), name]
            assert {path.stem for path in cache.glob("*.tar")} == set(used[-2:])
            assert sum(path.stat().st_size for path in cache.glob("*.tar")) <= 2 * size + 10
    with pytest.raises(UserError, match=r"raise data\.cache_gb"):
        ShardSet.open(in_memory, cache=cache, cache_bytes=size - 1)


def test_several_readers_share_a_cache_that_is_too_small_for_all(
    built: Path, in_memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_shards.read.reader.MAX_OPEN_SHARDS", 1)
    size = max(path.stat().st_size for path in built.glob("*.tar"))

    def read(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, 6, 20).tolist()
        with ShardSet.open(in_memory, cache=tmp_path / "cache", cache_bytes=size) as shards:
            assert [int(shards.read_window(row, 0, 10)[0]) for row in rows] == rows

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(read, range(6)))
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 1


def test_a_uri_needs_a_cache_and_a_set_behind_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give data\.cache=DIR"):
        ShardSet.open("memory://nothing")
    with pytest.raises(ShardError, match="memory://nothing: not a set of shards that can be reached"):
        ShardSet.open("memory://nothing", cache=tmp_path)
    with pytest.raises(ShardError, match="not a set of shards that can be reached"):
        ShardSet.open("nosuchscheme://nothing", cache=tmp_path)
    with pytest.raises(ShardError, match=r"not a set of shards \(no such folder\)"):
        ShardSet.open(tmp_path / "nowhere")


def test_a_file_uri_is_read_in_place(built: Path) -> None:
    with ShardSet.open(f"file://{built}") as shards:
        assert shards.read_window(1, 0, 1)[0] == 1


def test_an_encoded_clip_is_the_same_through_both_codecs(make_folder: MakeFolder, tmp_path: Path) -> None:
    clips = read_folder(*make_folder(2)).clips
    config = BuildConfig(workers=1)
    build(clips, tmp_path / "pcm", config)
    build(clips, tmp_path / "flac", replace(config, codec="flac"))
    with ShardSet.open(tmp_path / "pcm") as one, ShardSet.open(tmp_path / "flac") as two:
        assert np.array_equal(one.read_window(1, 5, 3_000), two.read_window(1, 5, 3_000))
        assert soundfile.info(io.BytesIO((tmp_path / "flac/shard-00000.tar").read_bytes()[512:])).format == "FLAC"
