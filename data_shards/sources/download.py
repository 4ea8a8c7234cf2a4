"""Download published files and check their hashes: pooch checks and moves, `Resuming` transfers.

An interrupted transfer leaves ``NAME.part``; the same call resumes it.
"""

import http
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.progress import SILENT, Progress
from cluster.settings import RunError, UserError

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Remote:
    """A file as its publisher offers it."""

    url: str
    hash: str
    """``ALGORITHM:HEX`` as published: ``sha256``, or ``md5`` or ``sha1`` where the publisher gives no better one."""
    name: str
    """Its path below the dataset's folder."""
    unpacks_to: str = ""
    """For a compressed tar: a file or folder that it unpacks to."""


def fetch(remotes: Sequence[Remote], root: Path, *, progress: Progress = SILENT) -> None:
    """Fetch missing files into `root`, check them, and unpack compressed tars.
    Raises UserError if a file that is there is not the published one, RunError if a transfer fails or another
    file comes.
    """
    with progress.stage("files", len(remotes)) as bar:
        for done, remote in enumerate(remotes):
            if not (remote.unpacks_to and (root / remote.unpacks_to).exists()):
                _fetch_one(remote, root, partial(bar, done))
        bar(len(remotes), "")


def _fetch_one(remote: Remote, root: Path, report: Callable[[str], None]) -> None:
    _retrieve(remote, root / remote.name, report)
    if remote.unpacks_to:
        from data_shards.audio.archives import unpack

        report(f"{remote.name}: unpacking")
        unpack(root / remote.name, root)
        if not (root / remote.unpacks_to).exists():
            raise RunError(f"{root / remote.name}: unpacked, but there is no {remote.unpacks_to} in it")


def _retrieve(remote: Remote, path: Path, report: Callable[[str], None]) -> None:
    import pooch  # it imports requests: half a second that listing clips does not need

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        report(f"{remote.name}: checking")
        if not pooch.hashes.hash_matches(str(path), remote.hash):
            raise UserError(f"{path}: not the published file ({remote.hash}); delete it and it is fetched again")
        return
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            remote.url, remote.hash, fname=path.name, path=path.parent, downloader=Resuming(path, remote.name, report)
        )
    except urllib.error.HTTPError as error:
        raise RunError(f"{remote.url}: {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise RunError(
            f"{remote.url}: {reason}; the part that was received is kept; the same command resumes"
        ) from None
    except ValueError as error:  # pooch: the hash
        raise RunError(f"{remote.url}: {error}") from None


class Resuming:
    """A downloader for pooch that keeps the received part and requests only the rest."""

    def __init__(self, path: Path, name: str, report: Callable[[str], None]) -> None:
        self._part = path.with_name(f"{path.name}.part")
        self._name = name
        self._report = report

    def __call__(self, url: str, output_file: str, _pooch: object, check_only: bool = False) -> None:
        """Fetch `url`, then move it to `output_file`; retry while each attempt receives some bytes.
        Raises OSError if there is no connection, or an attempt receives nothing.
        """
        assert not check_only
        while True:
            before = self._size()
            try:
                if self._go_on(url):
                    break
                what = "the connection broke"
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                if isinstance(error, urllib.error.HTTPError) or self._size() <= before:
                    raise
                what = str(error)
            if self._size() <= before:
                raise OSError(what)
        self._part.replace(output_file)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _go_on(self, url: str) -> bool:
        """One request; whether the file is complete."""
        have = self._size()
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            return True  # the file is complete; its hash decides whether it is the right one
        with response:
            resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
            have = have if resumed else 0  # a server that cannot resume sends everything again
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            with self._part.open("ab" if resumed else "wb") as file:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    have += len(chunk)
                    self._report(f"{self._name}: {have / 1e6:,.0f}{f' of {total / 1e6:,.0f}' if total else ''} MB")
        return total is None or have >= total
