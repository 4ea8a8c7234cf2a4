"""The clips that a build rejects, counted beside its progress, and its end when they are too many."""

import math
import time
from dataclasses import dataclass, field, replace

from cluster.settings import UserError
from data_shards.build.writer import Rejected, ShardResult

NAMED_REJECTED = 10
"""Number of rejected clips that an error names; the summary names all."""


class TooManyRejected(UserError):
    """More clips were rejected than `BuildConfig.max_rejected` allows."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a build."""

    done: int
    """Clips written, kept from an earlier run, or rejected."""
    total: int
    rejected: int
    resumed: int
    """Clips of `done` that an earlier run had written."""


@dataclass
class Tally:
    """Counts over the finished shards of a build."""

    total: int
    """Clips."""
    started: float = field(default_factory=time.monotonic)
    results: list[ShardResult] = field(default_factory=list)
    """Without their entries."""
    done: int = 0
    resumed: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, result: ShardResult) -> Progress:
        """Count a shard."""
        clips = len(result.entries) + len(result.rejected)
        self.results.append(replace(result, entries=()))  # of a large set they are gigabytes; the records have them
        self.done += clips
        self.resumed += clips if result.resumed else 0
        self.rejected += result.rejected
        return Progress(done=self.done, total=self.total, rejected=len(self.rejected), resumed=self.resumed)

    def check(self, max_rejected: float) -> None:
        """Stop the build when too many clips were rejected; the TooManyRejected names the first of them."""
        num_rejected = len(self.rejected)
        if num_rejected <= max_rejected * self.total and num_rejected < self.total:
            return
        named = [f"  {one.name}: {one.why}" for one in self.rejected[:NAMED_REJECTED]]
        more = num_rejected - len(named)
        named += [f"  and {more} more"] if more else []
        counts = f"{num_rejected} of the first {self.done} clips were rejected ({self.total} in all)"
        allowed = f"build.max_rejected = {max_rejected:g}"
        share = math.ceil(100 * num_rejected / self.total) / 100
        remedy = (
            f"Repair or remove them, or raise build.max_rejected: build.max_rejected={share:g} ends the command; "
            "shards that are finished are kept for it"
        )
        raise TooManyRejected("\n".join([f"{counts}, more than {allowed} allows:", *named, remedy]))
