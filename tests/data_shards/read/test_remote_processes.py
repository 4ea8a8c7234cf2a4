"""Processes that share one bounded cache of remote shards; one of them is killed while it fetches."""

import functools
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from cluster.settings import ROOT
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.read.reader import ShardSet
from data_shards.sources.folder import read_folder

MakeFolder = Callable[..., tuple[Path, Path]]
CLIPS, FRAMES = 8, 60_000
READER = """
import json, sys, zlib
import numpy as np
import data_shards.read.reader
from data_shards.read.reader import ShardSet

uri, cache, size, seed, first = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
data_shards.read.reader.MAX_OPEN_SHARDS = 1  # every change of shard asks the cache again
rows = [first, *np.random.default_rng(seed).integers(0, 8, 60).tolist()]
with ShardSet.open(uri, cache=cache, cache_bytes=size, retry_delays_s=()) as shards:
    print("opened", flush=True)
    print(json.dumps([(row, zlib.crc32(shards.read_window(row, 0, 60_000).tobytes())) for row in rows]))
"""
"""Without retries: sharing a cache must never make an attempt fail."""


class Gate:
    """Holds the first answer with a shard after its first half."""

    def __init__(self) -> None:
        self.half_sent, self.released = threading.Event(), threading.Event()
        self.taken = threading.Lock()


@pytest.fixture
def built(make_folder: MakeFolder, tmp_path: Path) -> Path:
    config = BuildConfig(clips_per_shard=2, workers=1)
    build(read_folder(*make_folder(CLIPS, frames=FRAMES)).clips, tmp_path / "set", config)
    return tmp_path / "set"


@pytest.fixture
def server(built: Path) -> Iterator[tuple[str, Gate]]:
    """The set behind HTTP, and the gate that the first fetch of a shard stops at."""
    gate = Gate()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

        def copyfile(self, source: Any, outputfile: Any) -> None:
            if not self.path.endswith(".tar") or not gate.taken.acquire(blocking=False):
                super().copyfile(source, outputfile)
                return
            whole = (built / Path(self.path).name).read_bytes()
            self.wfile.write(whole[: len(whole) // 2])
            self.wfile.flush()
            gate.half_sent.set()
            gate.released.wait(60)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(built)))
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", gate
    gate.released.set()
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def start(server: tuple[str, Gate], built: Path, tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """``start(seed)``: a reader that begins with the first shard; the cache has room for two of four."""
    size = 2 * max(shard.size for shard in read_index(built).shards) + 10
    begun: list[subprocess.Popen[str]] = []

    def make(seed: int) -> subprocess.Popen[str]:
        words = [server[0], str(tmp_path / "cache"), str(size), str(seed), "0"]
        command = [sys.executable, "-W", "ignore", "-c", READER, *words]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        return begun[-1]

    yield make
    for process in begun:
        process.kill()
        process.communicate()


def opened(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert process.stdout.readline() == "opened\n"


@pytest.mark.timeout(120)
def test_a_process_killed_in_mid_fetch_leaves_nothing_half_and_the_others_go_on(
    server: tuple[str, Gate], start: Callable[[int], subprocess.Popen[str]], built: Path, tmp_path: Path
) -> None:
    cache, gate = tmp_path / "cache", server[1]
    first = start(0)
    assert gate.half_sent.wait(60)
    others = [start(1), start(2)]  # they want the same shard, and wait for it
    for process in others:
        opened(process)
    assert len(list(cache.glob("*.part"))) == 1
    assert not list(cache.glob("*.tar"))
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    truth = [
        zlib.crc32(soundfile.read(built.parent / f"music/sub/{row:03d}.wav", dtype="int16")[0].tobytes())
        for row in range(CLIPS)
    ]
    for process in others:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        read = json.loads(output)
        assert len(read) == 61
        assert all(crc == truth[row] for row, crc in read)
    copies = list(cache.glob("*.tar"))
    assert 1 <= len(copies) <= 2
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in copies)
    assert {path.suffix for path in cache.iterdir()} == {".tar", ".arrow", ".lock"}


def test_the_half_of_a_killed_fetch_goes_even_where_its_shard_is_never_wanted_again(
    server: tuple[str, Gate], built: Path, tmp_path: Path
) -> None:
    uri, gate = server
    gate.taken.acquire()  # nothing is held
    cache, shards = tmp_path / "cache", read_index(built).shards
    cache.mkdir()
    half = cache / f"{shards[3].sha256}.part"
    half.write_bytes((built / shards[3].name).read_bytes()[:1_000])
    with ShardSet.open(uri, cache=cache) as remote:
        assert remote.read_window(0, 0, 1)[0] == 0
    assert not half.exists()
    assert [path.stem for path in cache.glob("*.tar")] == [shards[0].sha256]
