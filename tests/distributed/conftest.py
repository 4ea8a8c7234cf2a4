"""A pool of processes that is started once a session and runs module-level functions of test files as gloo ranks."""

import importlib.util
import multiprocessing
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
START_S = 240.0
"""The first process imports torch, a minute on a busy machine; no test's own time-out counts it."""
GRACE_S = 10.0
"""A rank may be this much later than the collectives' own time-out before it is given up."""


class RankFailedError(AssertionError):
    """A rank raised, died or did not answer; the message names it."""


class Pool:
    """Processes that wait for (file, function, arguments); functions travel by name, so they must stand in a module."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, 0
        self.members: list[tuple[Any, Connection]] = []

    def run(self, world_size: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = 60.0) -> list[Any]:
        """Call ``function(*arguments)`` on every rank and return what each returned, in rank order."""
        self._grow(world_size)
        self.calls += 1
        meeting = self.folder / f"meeting-{self.calls}"
        code = function.__code__
        for rank in range(world_size):
            job = (code.co_filename, function.__name__, arguments, rank, world_size, str(meeting), timeout_s)
            self.members[rank][1].send(job)
        deadline = time.monotonic() + timeout_s + GRACE_S
        answers = {rank: self._answer(rank, deadline) for rank in range(world_size)}
        lost = {rank: answer for rank, (kind, answer) in answers.items() if kind == "lost"}
        failed = lost or {rank: answer for rank, (kind, answer) in answers.items() if kind == "raised"}
        if failed:
            self.close()  # torch numbers its groups in each process: after a failure the ranks would count differently
            raise RankFailedError("\n".join(f"rank {rank} of {world_size}: {text}" for rank, text in failed.items()))
        return [answers[rank][1] for rank in range(world_size)]

    def _answer(self, rank: int, deadline: float) -> tuple[str, Any]:
        process, connection = self.members[rank]
        try:
            if connection.poll(max(0.0, deadline - time.monotonic())):
                kind, answer = connection.recv()
                return str(kind), answer
        except EOFError:
            process.join(1)
            return "lost", f"died with exit code {process.exitcode}"
        return "lost", "did not answer in time"

    def _grow(self, world_size: int) -> None:
        # A server imports torch once; what it forks starts in no time.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch._dynamo", "trainers.distributed.collectives", "pytest"])
        while len(self.members) < world_size:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, sys.path), daemon=True)
            process.start()
            theirs.close()
            assert ours.poll(START_S), "a process of the pool did not start"
            assert ours.recv() == "ready"
            self.members.append((process, ours))

    def close(self) -> None:
        """End the processes that this pool started."""
        for process, connection in self.members:
            connection.close()
            process.join(0.5)
            if process.is_alive():
                process.kill()
                process.join()
        self.members = []


def _serve(connection: Connection, path: list[str]) -> None:
    sys.path[:] = [str(CHECKOUT), *path]
    import torch

    from trainers.distributed import collectives

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    connection.send("ready")
    while True:
        try:
            file, name, arguments, rank, world_size, meeting, timeout_s = connection.recv()
        except (EOFError, OSError):
            return
        try:
            function = getattr(_load(file), name)
            place = {"rank": rank, "world_size": world_size, "init_method": f"file://{meeting}"}
            with collectives.process_group(timeout_s=timeout_s, backend="gloo", **place):
                answer = ("returned", function(*arguments))
        except Exception:
            answer = ("raised", traceback.format_exc())
        connection.send(answer)


_loaded: dict[str, ModuleType] = {}


def _load(file: str) -> ModuleType:
    # By file and not by name: another distribution's top-level `tests` package would win over this folder.
    if file not in _loaded:
        spec = importlib.util.spec_from_file_location(f"ranks_{Path(file).stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _loaded[file] = module
    return _loaded[file]


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Up to a handful of gloo processes, started when first needed."""
    processes = Pool(tmp_path_factory.mktemp("ranks"))
    yield processes
    processes.close()


@pytest.fixture
def ranks(pool: Pool) -> Callable[..., list[Any]]:
    """``ranks(world_size, function, *arguments, timeout_s=60)`` → what each rank returned."""
    return pool.run
