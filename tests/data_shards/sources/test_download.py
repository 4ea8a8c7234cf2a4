"""Downloads against a server on this machine: checked, resumed, and refused when they are not what was published."""

import hashlib
import importlib
import inspect
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cluster.settings import RunError, UserError
from data_shards.sources import datasets
from data_shards.sources.download import Remote, fetch

DATA = np.random.default_rng(0).bytes(3_000_000)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


class Server(ThreadingHTTPServer):
    """What it offers, how it misbehaves, and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/mp3.zip": DATA}
        self.asked: list[tuple[str, str | None]] = []
        self.breaks = 0
        """So many answers end in the middle."""
        self.ranges = True

    def remote(self, name: str = "mp3.zip", known: str = SHA256, unpacks_to: str = "") -> Remote:
        return Remote(f"http://127.0.0.1:{self.server_address[1]}/{name}", known, name, unpacks_to)


class Handler(BaseHTTPRequestHandler):
    """GET with Range."""

    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            data = data[: start + 700_000]
        self.wfile.write(data[start:])

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_comes_whole_and_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    fetch([server.remote()], tmp_path)
    assert (tmp_path / "mp3.zip").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["mp3.zip"]
    fetch([server.remote()], tmp_path)
    assert server.asked == [("/mp3.zip", None)]


def test_a_broken_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks = 2
    fetch([server.remote()], tmp_path)
    assert (tmp_path / "mp3.zip").read_bytes() == DATA
    assert [wanted for _, wanted in server.asked] == [None, "bytes=700000-", "bytes=1400000-"]


def test_a_killed_download_is_resumed_by_the_next_call(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mp3.zip.part").write_bytes(DATA[:2_000_000])
    fetch([server.remote()], tmp_path)
    assert server.asked == [("/mp3.zip", "bytes=2000000-")]
    assert (tmp_path / "mp3.zip").read_bytes() == DATA
    (tmp_path / "mp3.zip").rename(tmp_path / "mp3.zip.part")  # killed between the last byte and the check
    fetch([server.remote()], tmp_path)
    assert (tmp_path / "mp3.zip").read_bytes() == DATA
    assert len(server.asked) == 2


def test_a_server_that_cannot_resume_sends_everything_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "mp3.zip.part").write_bytes(DATA[:2_000_000])
    fetch([server.remote()], tmp_path)
    assert (tmp_path / "mp3.zip").read_bytes() == DATA


def test_something_else_than_was_published_never_gets_the_name(server: Server, tmp_path: Path) -> None:
    server.files["/mp3.zip"] = b"<html>moved</html>"
    with pytest.raises(RunError, match=r"mp3\.zip.*hash"):
        fetch([server.remote()], tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mp3.zip.part").write_bytes(b"of another version" * 10)  # a wrong beginning is not kept for ever
    server.files["/mp3.zip"] = DATA
    with pytest.raises(RunError, match="hash"):
        fetch([server.remote()], tmp_path)
    fetch([server.remote()], tmp_path)
    assert (tmp_path / "mp3.zip").read_bytes() == DATA


def test_a_file_of_ones_own_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mp3.zip").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"mp3\.zip: not the published file .*delete it"):
        fetch([server.remote()], tmp_path)
    assert (tmp_path / "mp3.zip").read_bytes() == b"mine"


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_the_publishers_kind_of_hash_is_taken(server: Server, tmp_path: Path, algorithm: str) -> None:
    fetch([server.remote(known=f"{algorithm}:{hashlib.new(algorithm, DATA).hexdigest()}")], tmp_path)
    with pytest.raises(UserError, match="not the published file"):
        fetch([server.remote(known=f"{algorithm}:{hashlib.new(algorithm, b'').hexdigest()}")], tmp_path)


def test_what_cannot_be_fetched_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"/gone\.zip: 404"):
        fetch([server.remote("gone.zip")], tmp_path)
    gone = server.remote()
    server.shutdown()
    server.server_close()
    with pytest.raises(RunError, match=r"refused; the part that was received is kept"):
        fetch([gone], tmp_path)


def test_a_tar_is_unpacked_once(server: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("genres/blues.wav")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"RIFF"))
    server.files["/genres.tar.gz"] = buffer.getvalue()
    known = f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()}"
    for _ in range(2):
        fetch([server.remote("genres.tar.gz", known, "genres")], tmp_path)
        assert (tmp_path / "genres/blues.wav").read_bytes() == b"RIFF"
        (tmp_path / "genres.tar.gz").unlink(missing_ok=True)
    assert len(server.asked) == 1
    with pytest.raises(RunError, match="there is no clips in it"):
        fetch([server.remote("genres.tar.gz", known, "clips")], tmp_path)


def test_a_dataset_is_fetched_with_the_files_that_its_first_ones_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/second.zip"] = b"second"
    second = server.remote("second.zip", f"md5:{hashlib.md5(b'second', usedforsecurity=False).hexdigest()}")
    named = datasets.Dataset(
        title="", needs="files", page="the page", reader="mtat.read_mtat",
        variants=("small", "large"), remotes_of={"small": server.remote()}, names_more="giantsteps.tempo_audio",
    )  # fmt: skip
    monkeypatch.setattr("data_shards.sources.published.giantsteps.tempo_audio", lambda _: [second])
    monkeypatch.setitem(datasets.DATASETS, "named", named)
    datasets.download("named", tmp_path / "new", "small")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["mp3.zip", "second.zip"]
    with pytest.raises(UserError, match=r"named: no address with a hash is published; get files from the page"):
        datasets.download("named", tmp_path, "large")
    with pytest.raises(UserError, match="named: no variant 'tiny'; there are small, large"):
        datasets.download("named", tmp_path, "tiny")


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_the_functions_that_the_catalogue_names_take_its_roots_and_variants(name: str) -> None:
    dataset = datasets.DATASETS[name]
    for place in (dataset.reader, dataset.names_more):
        if place:
            module, function = place.split(".")
            found = getattr(importlib.import_module(f"data_shards.sources.published.{module}"), function)
            variant = {"variant": dataset.variants[-1]} if place == dataset.reader and len(dataset.variants) > 1 else {}
            taken = inspect.signature(found).bind(Path("root"), **variant).arguments
            assert set(taken.values()) == {Path("root"), *variant.values()}, place
