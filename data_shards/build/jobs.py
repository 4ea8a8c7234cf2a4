"""The jobs of a build: a shard's clips are made when its job is asked for, and not kept."""

from collections.abc import Sequence
from typing import overload

from data_shards.build.checks import tidied
from data_shards.build.writer import BuildConfig, BuildJob
from data_shards.format.records import Clip


class Jobs(Sequence[BuildJob]):
    """One job for every `BuildConfig.clips_per_shard` clips, which are `tidied`."""

    def __init__(self, clips: Sequence[Clip], folder: str, config: BuildConfig) -> None:
        self._clips, self._folder, self._config = clips, folder, config

    def __len__(self) -> int:
        step = self._config.clips_per_shard
        return (len(self._clips) + step - 1) // step

    @overload
    def __getitem__(self, at: int) -> BuildJob: ...
    @overload
    def __getitem__(self, at: slice) -> list[BuildJob]: ...
    def __getitem__(self, at: int | slice) -> BuildJob | list[BuildJob]:
        """The job of a shard, or those of a slice."""
        numbers = range(len(self))[at]
        return self._job(numbers) if isinstance(numbers, int) else [self._job(number) for number in numbers]

    def _job(self, number: int) -> BuildJob:
        start = number * self._config.clips_per_shard
        clips = tuple(map(tidied, self._clips[start : start + self._config.clips_per_shard]))
        return BuildJob(number=number, clips=clips, folder=self._folder, config=self._config)
