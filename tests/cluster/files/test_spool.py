"""A sequence on disk: what went in comes out, in order, however it is asked for, and memory does not grow with it."""

import gc
import random
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.files.spool import CHUNK, NAMED, Spool, first_repeat, sorted_spool, text_hashes
from cluster.settings import RunError


@dataclass(frozen=True)
class Item:
    """Something to count."""

    number: int


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_a_spool_is_the_list_that_it_was_made_of(count: int) -> None:
    items = [(number, f"text {number}") for number in range(count)]
    spool = Spool(items)
    assert list(spool) == items
    assert len(spool) == count
    assert list(reversed(spool)) == items[::-1]
    cuts = (slice(None), slice(3, CHUNK + 5), slice(CHUNK - 2, CHUNK + 2), slice(None, None, -7), slice(-5, None))
    for cut in cuts:
        assert spool[cut] == tuple(items[cut])
    assert repr(spool).count("text") == min(count, NAMED)
    for at in random.Random(0).choices(range(-count, count), k=20) if count else ():
        assert spool[at] == items[at]
    for at in (count, -count - 1):
        with pytest.raises(IndexError):
            spool[at]


def test_iterations_do_not_disturb_each_other_nor_what_is_added() -> None:
    spool = Spool(range(CHUNK + 3))
    one, other = iter(spool), iter(spool)
    assert [next(one) for _ in range(CHUNK - 1)] == [next(other) for _ in range(CHUNK - 1)]
    assert spool[CHUNK + 2] == CHUNK + 2
    for number in range(CHUNK + 3, 3 * CHUNK):
        spool.append(number)
    assert spool[CHUNK + 2] == CHUNK + 2
    assert spool[3 * CHUNK - 1] == 3 * CHUNK - 1
    assert list(spool) == list(range(3 * CHUNK))


@pytest.mark.usefixtures("untraced")
def test_as_many_objects_are_alive_as_a_chunk_has_whatever_the_count() -> None:
    spool = Spool(map(Item, range(5_000)))
    most = 0
    for place, item in enumerate(spool):
        assert item.number == place
        if place % 500 == 0:
            most = max(most, sum(type(one) is Item for one in gc.get_objects()))
    assert most <= 3 * CHUNK


def test_memory_grows_by_less_than_two_bytes_an_item() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        spool = Spool(f"a text of some length, number {number}" for number in range(count))
        assert sum(map(len, spool)) > 30 * count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(CHUNK)
    few, many = 4 * CHUNK, 64 * CHUNK
    assert (peak(many) - peak(few)) / (many - few) < 2


def test_sorting_is_that_of_sorted_beyond_what_is_sorted_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.files.spool.SORTED_AT_ONCE", 100)
    paths = [Path(f"{'ab-c'[number % 4]}/{number % 7}/{number}") for number in range(1_000)]
    random.Random(0).shuffle(paths)
    assert list(sorted_spool(paths)) == sorted(paths)
    assert list(sorted_spool([])) == []


def test_the_first_text_that_comes_again_is_found_also_where_hashes_collide() -> None:
    texts = [str(number) for number in range(1_000)]
    assert first_repeat(texts) is None
    assert first_repeat([*texts, "7", "3"]) == (7, 1_000)
    collided = text_hashes([*texts, "7"])
    collided[5] = collided[4]  # not the hash of the text: as if two texts had one
    assert first_repeat([*texts, "7"], collided) == (7, 1_000)


def test_a_full_disk_names_the_folder_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cluster.files.spool.tempfile.TemporaryFile", full)
    with pytest.raises(RunError, match=r"list of 256 items cannot be kept there: No space left.*set TMPDIR"):
        Spool(range(CHUNK))
