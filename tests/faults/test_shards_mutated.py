"""Faults 4, 5, 17, 23: the strict reader under fire."""

import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_shards.format.entries import scan_shard
from data_shards.format.problems import ShardError

MakeSet = Callable[..., Path]
MAX_SHARD_S = 0.1
"""CPU time that reading a shard of 15 kB may take, however it was damaged (Faults 23)."""


@pytest.mark.timeout(60)
def test_two_thousand_mutated_shards_are_read_or_refused_never_misread(make_set: MakeSet) -> None:
    folder = make_set(count=3, frames=2_205)
    shard = folder / "shard-00000.tar"
    whole = shard.read_bytes()
    truth = {entry.key: entry.crc for entry in scan_shard(shard)}
    with tarfile.open(shard) as tar:
        headers = np.array([member.offset for member in tar])
    rng = np.random.default_rng(0)
    refused = 0
    spent_s = []
    for _ in range(2_000):
        mutated = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.choice(headers)) + int(rng.integers(512))
            mutated[place] = int(rng.integers(256))
        if rng.random() < 0.3:
            mutated = mutated[: int(rng.integers(len(mutated)))]
        shard.write_bytes(mutated)
        started_s = time.thread_time()
        try:
            entries = scan_shard(shard)
        except ShardError:
            refused += 1
            continue
        finally:
            spent_s.append(time.thread_time() - started_s)
        assert {entry.key: entry.crc for entry in entries} == truth
    print(f"refused {refused}, slowest {max(spent_s):.3f} s, together {sum(spent_s):.1f} s")  # pytest -s shows it
    assert refused > 1_900
    assert max(spent_s) < MAX_SHARD_S
