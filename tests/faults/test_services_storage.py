"""FAULTS 47: storage that cannot be reached stops the work after bounded attempts, with its URI."""

from pathlib import Path

import pytest

from cluster.settings import RunError
from cluster.storage import fetch, read_bytes


def test_unreachable_storage_stops_with_the_uri_after_bounded_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("cluster.storage.time.sleep", waits.append)

    with pytest.raises(RunError, match=r"file:///nowhere/shard-00003\.tar: cannot read after 4 attempts"):
        read_bytes("file:///nowhere/shard-00003.tar", 0, 512)

    assert waits == [0.5, 1.0, 2.0]


def test_the_message_holds_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.storage.time.sleep", lambda _: None)

    with pytest.raises(RunError) as caught:
        read_bytes("memory://ann:pa55@bucket/shard-00000.tar")

    assert "pa55" not in str(caught.value)
    assert "bucket/shard-00000.tar" in str(caught.value)


def test_a_shard_that_cannot_be_fetched_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cluster.storage.time.sleep", lambda _: None)
    cache = tmp_path / "cache"

    with pytest.raises(RunError, match=r"memory://lost/shard\.tar: cannot fetch"):
        fetch("memory://lost/shard.tar", cache / "shard.tar")

    assert not cache.exists()
