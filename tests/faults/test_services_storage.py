"""Faults 47: storage that cannot be reached stops the work after bounded attempts, with its URI."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from cluster.settings import RunError
from data_shards import remote_store
from data_shards.problems import ShardError
from data_shards.reader import ShardSet
from data_shards.shard_store import open_index

URI = "memory://ann:pa55@bucket/set"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every pause between two attempts; none is really waited."""
    seconds: list[float] = []
    monkeypatch.setattr("cluster.storage.time.sleep", seconds.append)
    return seconds


def unreachable(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Storage that fails so many times and then answers; the places that were asked for."""
    asked: list[str] = []
    there = remote_store._opened

    @contextmanager
    def opened(place: str) -> Iterator[BinaryIO]:
        asked.append(place)
        if len(asked) <= times:
            raise OSError(f"no route to {place}")
        with there(place) as file:
            yield file

    monkeypatch.setattr(remote_store, "_opened", opened)
    return asked


def test_unreachable_storage_stops_with_the_uri_after_bounded_retry(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], tmp_path: Path
) -> None:
    asked = unreachable(monkeypatch, times=100)

    with pytest.raises(RunError, match=r"bucket/set/manifest\.json: cannot read after 4 attempts") as caught:
        ShardSet.open(URI, cache=tmp_path / "cache")

    assert waits == [0.5, 1.0, 2.0]
    assert len(asked) == 4
    assert "pa55" not in str(caught.value)


def test_storage_that_comes_back_is_read(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], tiny_sets: tuple[Path, Path]
) -> None:
    unreachable(monkeypatch, times=3)

    assert len(remote_store.fetch_index(tiny_sets[0].as_uri())) == 12
    assert len(waits) == 3


@pytest.mark.parametrize(
    ("uri", "why"), [(URI, "bucket/set/manifest.json"), ("nosuchscheme://ann:pa55@bucket/set", "Protocol not known")]
)
def test_what_no_waiting_mends_is_told_at_once_without_credentials(waits: list[float], uri: str, why: str) -> None:
    with pytest.raises(ShardError, match="not a set of shards that can be reached") as caught:
        open_index(uri)

    assert why in str(caught.value)
    assert "pa55" not in str(caught.value)
    assert not waits
