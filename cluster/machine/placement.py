"""Which processes fit which machines: what a cluster can never hold is refused at once, instead of waited for.

A sum over a cluster is not enough: a process reserves its cores and GPUs on one machine, and a share of a GPU on one
GPU. Everything here is counted from numbers; nothing asks Ray.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.machine.resources import ResourcesConfig
from cluster.settings import UserError

UNIT = 10_000
"""Ray counts resources in ten-thousandths; floats would lose the tenth of ten tenths."""
NAMED = 3
"""Addresses that a message names for machines of one kind."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine of a cluster, by what it offers in all, busy or not."""

    address: str
    id: str = ""
    """Ray's name of it."""
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What one process reserves on one machine."""

    cpus: float
    gpus: float = 0.0
    """A share of one GPU below 1, else whole ones."""
    kind: str = "worker"
    """What a message calls the process."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A process on a machine."""

    machine: Machine
    bundle: Bundle


class Room:
    """What machines have left while processes are placed on them, in tasks that are placed whole or not at all.

    As Ray does: a task's processes on as few machines as possible; those without GPU on machines without GPUs, where
    there is room. For processes of one size this finds a place whenever there is one.
    """

    def __init__(self, machines: Iterable[Machine]) -> None:
        self._left = [_Left(machine) for machine in machines]

    def take(self, bundles: Sequence[Bundle]) -> list[Placed] | None:
        """Take a machine for each process of a task; None, and nothing is taken, if they do not fit together."""
        waiting = sorted(bundles, key=lambda one: (-one.gpus, -one.cpus))
        before = [left.copy() for left in self._left]
        placed: list[Placed] = []
        while waiting:
            chosen = max(self._left, key=lambda left: left.preference(waiting), default=None)
            held = chosen.hold_all(waiting) if chosen else []
            if chosen is None or not held:
                self._left = before
                return None
            placed += [Placed(machine=chosen.machine, bundle=one) for one in held]
            for one in held:
                waiting.remove(one)
        return placed

    def hold(self, placed: Iterable[Placed]) -> None:
        """Take what runs already; what a lost machine held is gone with it."""
        by_machine = {left.machine: left for left in self._left}
        for one in placed:
            if one.machine in by_machine:
                by_machine[one.machine].hold(one.bundle)


class _Left:
    """One machine's rest."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cpus = round(machine.cpus * UNIT)
        self.gpus = [UNIT] * int(machine.gpus)

    def copy(self) -> "_Left":
        other = _Left(self.machine)
        other.cpus, other.gpus = self.cpus, list(self.gpus)
        return other

    def hold(self, bundle: Bundle) -> bool:
        """Take a process's share, if it is there."""
        cpus, gpus = round(bundle.cpus * UNIT), round(bundle.gpus * UNIT)
        if cpus > self.cpus:
            return False
        if gpus > UNIT:
            whole = [number for number, left in enumerate(self.gpus) if left == UNIT][: gpus // UNIT]
            if len(whole) * UNIT < gpus:
                return False
            for number in whole:
                self.gpus[number] = 0
        elif gpus:
            fitting = [number for number, left in enumerate(self.gpus) if left >= gpus]
            if not fitting:
                return False
            self.gpus[min(fitting, key=self.gpus.__getitem__)] -= gpus  # the fullest: whole ones stay whole
        self.cpus -= cpus
        return True

    def hold_all(self, bundles: Sequence[Bundle]) -> list[Bundle]:
        """Take as many as there is room for, in order."""
        return [one for one in bundles if self.hold(one)]

    def preference(self, bundles: Sequence[Bundle]) -> tuple[bool, bool, int, int]:
        """The larger, the better a machine for these."""
        held = len(self.copy().hold_all(bundles))
        wastes = bool(self.gpus) and not any(one.gpus for one in bundles)
        return held > 0, not wastes, held, -self.cpus


def copies(bundles: Sequence[Bundle], machines: Iterable[Machine], most: int) -> int:
    """How many equal tasks find room together, at most ``most``.

    >>> pair = [Bundle(cpus=2), Bundle(cpus=2)]
    >>> copies(pair, [Machine(address="a", cpus=3), Machine(address="b", cpus=3), Machine(address="c", cpus=2)], 9)
    1
    """
    room = Room(machines)
    found = 0
    while found < most and room.take(bundles) is not None:
        found += 1
    return found


def worker_bundle(
    config: ResourcesConfig, machines: Sequence[Machine], *, workers: int, what: str, beside: Sequence[Bundle] = ()
) -> Bundle:
    """What each worker of a run reserves on a cluster: with GPUs where the configuration and the machines have them.
    Where they do not fit the UserError names what there is, unless ``resources.autoscaling`` waits for more.
    """
    plain = Bundle(cpus=config.cpus_per_worker)
    with_gpu = Bundle(cpus=config.cpus_per_worker, gpus=config.gpus_per_worker)
    if config.autoscaling:
        return with_gpu if config.use_gpu == "yes" else plain
    gpu = config.use_gpu == "yes" or (config.use_gpu == "auto" and _fit([with_gpu] * workers, machines))
    asked = [with_gpu if gpu else plain] * workers + list(beside)
    if not _fit(asked, machines):
        raise UserError(
            f"{what} needs {needed(asked)}, the cluster has {offered(machines)}{_apart(asked, machines)}; "
            f"{_remedies(asked, machines, config)}"
        )
    return asked[0]


def _fit(bundles: Sequence[Bundle], machines: Sequence[Machine]) -> bool:
    return Room(machines).take(bundles) is not None


def _remedies(bundles: Sequence[Bundle], machines: Sequence[Machine], config: ResourcesConfig) -> str:
    keys = ["resources.num_workers"] if config.num_workers > 1 else []
    keys += ["resources.cpus_per_worker"]
    keys += ["resources.gpus_per_worker"] if bundles[0].gpus else []
    keys += ["views.pool_workers or views.pool_gpus"] if bundles[-1].kind != bundles[0].kind else []
    ways = [f"lower {' or '.join(keys)}"]
    if bundles[0].gpus and _fit([replace(one, gpus=0.0) for one in bundles], machines):
        ways.append("set resources.use_gpu=no")
    ways.append("set resources.autoscaling=true where machines come on demand")
    return ", or ".join(ways)


def _apart(bundles: Sequence[Bundle], machines: Sequence[Machine]) -> str:
    """What a sum does not show."""
    cpus, gpus = (sum(getattr(one, name) for one in bundles) for name in ("cpus", "gpus"))
    enough = cpus <= sum(one.cpus for one in machines) and gpus <= sum(one.gpus for one in machines)
    return ", which do not hold them machine by machine" if enough else ""


def needed(bundles: Sequence[Bundle]) -> str:
    """Processes in words.

    >>> needed([Bundle(cpus=2, gpus=0.5)] * 2 + [Bundle(cpus=1)])
    '2 workers of 2 cores and 0.5 GPUs, 1 worker of 1 core'
    """
    counted = Counter(bundles)
    return ", ".join(f"{_many(n, one.kind)} of {_size(one.cpus, one.gpus)}" for one, n in counted.items())


def offered(machines: Sequence[Machine]) -> str:
    """Machines in words, alike ones together; those without a core for work are left out.

    >>> offered([Machine(address="10.0.0.1", cpus=0), Machine(address="10.0.0.2", cpus=4, gpus=1)])
    '1 machine of 4 cores and 1 GPU (10.0.0.2)'
    >>> offered([])
    'no machine for work'
    """
    kinds: dict[tuple[float, float], list[str]] = {}
    for one in machines:
        if one.cpus or one.gpus:
            kinds.setdefault((one.cpus, one.gpus), []).append(one.address)
    words = [
        f"{_many(len(names), 'machine')} of {_size(cpus, gpus)} "
        f"({', '.join([*names[:NAMED], *['…'] * (len(names) > NAMED)])})"
        for (cpus, gpus), names in sorted(kinds.items(), reverse=True)
    ]
    return ", ".join(words) or "no machine for work"


def _size(cpus: float, gpus: float) -> str:
    return _many(cpus, "core") + (f" and {_many(gpus, 'GPU')}" if gpus else "")


def _many(count: float, word: str) -> str:
    return f"{count:g} {word}{'' if count == 1 else 's'}"
