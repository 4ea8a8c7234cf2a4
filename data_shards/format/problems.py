"""Problems of shards and clips, and the exceptions that carry them."""

from typing import NamedTuple

from cluster.settings import RunError, UserError


class Problem(NamedTuple):
    """One thing wrong with a set of shards, as precisely as it can be placed."""

    shard: str
    """File name of the shard, or of the index or manifest."""
    key: str | None
    """The clip it concerns, where one can be named."""
    byte: int | None
    """Offset in the shard where it was noticed."""
    what: str

    def __str__(self) -> str:
        place = self.shard
        place += f", clip {self.key}" if self.key else ""
        place += f", byte {self.byte:,}" if self.byte is not None else ""
        return f"{place}: {self.what}"


class ShardError(UserError):
    """A set of shards that must not be used as it is."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem

    def __reduce__(self) -> tuple[type["ShardError"], tuple[Problem]]:
        # Exceptions are rebuilt from their message by default; this one travels between processes with its problem.
        return type(self), (self.problem,)


class ClipError(RunError):
    """A clip that cannot be delivered: its bytes are not those that were indexed. The loader replaces and counts it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem

    def __reduce__(self) -> tuple[type["ClipError"], tuple[Problem]]:
        return type(self), (self.problem,)
