"""Which code a part of a step runs: kernels for GPUs, or the tensor code that they must agree with.

Under ``kernel=auto`` the first batch is computed by both and compared on the device itself. Kernels that fail to
compile or to start, or that compute something else, are replaced by the tensor code for the rest of the run, with one
warning that names the reason. Snapshots record the outcome, so that a resumed run goes on with the same code.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

_log = logging.getLogger(__name__)
FUSED = "fused"
Result = TypeVar("Result")


class KernelChoice:
    """The outcome for one part of the step; undecided until its first batch.

    Args:
        key: the setting, such as ``augment.kernel``.
        plain: what the setting calls the tensor code, such as ``torch``.
    """

    def __init__(self, key: str, plain: str) -> None:
        self.key, self.plain = key, plain
        self.fell_back = False
        self._compared: set[str] = set()
        self._trusted: set[str] = set()
        self._began_fused = False

    @property
    def name(self) -> str | None:
        """``fused``, the tensor code's name after a fallback, or None where no kernel was tried."""
        if self.fell_back:
            return self.plain
        return FUSED if self._compared or self._trusted else None

    def run(
        self,
        part: str,
        fused: Callable[[], Result],
        plain: Callable[[], Result],
        difference: Callable[[Result, Result], str | None],
    ) -> Result:
        """The kernels' result while they are trusted, else that of the tensor code.

        Args:
            part: which kernels; each is compared in the first batch that needs it.
            fused: computes by kernels, and changes nothing that ``plain`` reads.
            plain: computes the same by tensor operations.
            difference: a description of how the results differ, None where they agree.
        """
        if self.fell_back:
            return plain()
        try:
            made = fused()
            if part in self._trusted:
                return made
            problem = difference(made, plain())
        except Exception as error:  # compilers, drivers and launchers raise what they like
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            problem = f"{type(error).__name__}: {first}" if first else type(error).__name__
        if problem is None:
            self._compared.add(part)
            return made
        self._fall_back(part, problem)
        return plain()

    def settle(self) -> None:
        """The first batch is over: kernels that agreed with the tensor code in it are trusted from now on."""
        self._trusted |= self._compared

    def resume(self, recorded: str | None) -> None:
        """Go on with the code that a snapshot records: kernels once replaced stay replaced."""
        self.fell_back = recorded == self.plain
        self._began_fused = recorded == FUSED

    def _fall_back(self, part: str, problem: str) -> None:
        self.fell_back = True
        resumed = (
            "; the steps before this resume were computed by the kernels, so an unbroken run's numbers agree only up "
            "to rounding"
        )
        _log.warning(
            "%s=auto: the kernels for %s do not work on this device (%s); the tensor code goes on (%s=%s)%s",
            self.key,
            part,
            problem,
            self.key,
            self.plain,
            resumed if self._began_fused else "",
        )
