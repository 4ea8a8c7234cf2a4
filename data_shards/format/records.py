"""What goes into a set of shards, a dataset's clips, and what comes out of it, batches for training.

Shape suffixes: B clips of this rank's part of a step, T samples of a window, C tags of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self

if TYPE_CHECKING:  # a process that only decodes need not spend seconds on torch, one that reads keys none on numpy
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
SAMPLE_RATE = 22_050
"""Hz; the rate of every shard unless a build says otherwise (arXiv:2407.13840, §4.2)."""


class Audio(Protocol):
    """Where a clip's samples come from: a file, an archive's member, a synthesiser.

    Picklable, for worker processes, with a repr that names the sound (a frozen dataclass has one): a build that is
    started again keeps the shards whose clips have the same repr.
    """

    def read(self) -> tuple[NDArray[np.float32], int]:
        """Decode everything: samples of shape (T,) or (T, channels) in [-1, 1], and the rate in Hz.

        Raises:
            data_shards.audio.decode.AudioError: the reason why this clip is refused, like any other exception but the
                project's own UserError and RunError, which end the build.
        """
        ...

    @property
    def name(self) -> str:
        """Name for messages, such as the path of the file."""
        ...


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip of a dataset before it is written to a shard."""

    key: str
    """Unique in its set, 1 to 90 letters, digits, ``_`` and ``-``: the name of the sample in the tar, never a path."""
    audio: Audio
    """`data_shards.audio.decode.audio_file` of a path, or an object of the user's own."""
    track: str
    """Clips of one track are never split apart, and never neighbours of each other in retrieval."""
    artist: str | None = None
    split: Split = "train"
    multilabel: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tag sets by column, e.g. ``{"tags": ("guitar", "calm")}``; an empty tuple means unlabelled there."""
    categorical: Mapping[str, str | None] = field(default_factory=dict)
    """One class a column, e.g. ``{"key": "C minor"}``; None where unknown."""
    numeric: Mapping[str, float] = field(default_factory=dict)
    """Real targets, e.g. ``{"bpm": 120.0}``; NaN where unknown."""
    captions: tuple[str, ...] = ()
    """Sentences that describe the clip, in order: text, never a vocabulary."""
    caption_tags: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    """For each caption the tags that it shows, none where that is not known; empty if it is known for no caption."""
    licence: str | None = None


@dataclass(frozen=True)
class Listing:
    """The clips of a dataset, before any audio is read."""

    clips: Sequence[Clip]
    """A tuple, or a `cluster.files.spool.Spool` of millions."""
    vocabularies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tag orders that the dataset fixes."""
    notes: tuple[str, ...] = ()
    """For the user, without a path of this machine: counts that differ from the published ones, what was left out and
    why, splits that replace unpublished ones. The manifest keeps them."""

    def __len__(self) -> int:
        return len(self.clips)


class TextRows(NamedTuple):
    """The texts of a batch, and for each of them a number of swapped ones: hard negatives.

    Shape suffixes: B clips of this rank's part, H = B·each hard texts (those of a clip beside each other), R = B + H
    rows, the texts first; C words of the caption vocabulary.
    """

    text: tuple[str, ...]
    """(B,), one for each clip, never empty."""
    hard: tuple[str | None, ...]
    """(H,); None where the text has nothing to swap, or the share of swaps at this step leaves the clip out."""
    tags_BC: Tensor
    """bool: what holds for the clip, by its tags and its captions."""
    tags_text_RC: Tensor
    """bool: what each text says; all-False for an absent one."""
    hash_R: Tensor
    """int64, equal for equal texts; -1 for an absent one, which no text has."""

    @property
    def present_R(self) -> Tensor:
        """bool: rows that hold a text."""
        return self.hash_R >= 0


class Windows(NamedTuple):
    """What a batch holds of its clips: windows of audio, labels, and who they are."""

    wave_BT: Tensor
    """int16 windows; a clip shorter than the window is followed by zeros."""
    frames_B: Tensor
    """int64 samples of each window that hold audio, ≤ T."""
    clip_id_B: Tensor
    """int64, a stable hash of the clip's key: equal for every view of one clip, on every rank."""
    labels_BC: Tensor
    """bool; an all-False row is unlabelled."""
    slot_B: Tensor
    """int64 place in the global batch: the key of every random draw."""


class Batch(Windows):
    """This rank's part of one global batch. It iterates over its tensors; `texts` go with them if asked for."""

    texts: TextRows | None
    """What a text tower reads; None unless the loader was asked for texts."""

    def __new__(
        cls,
        wave_BT: Tensor,
        frames_B: Tensor,
        clip_id_B: Tensor,
        labels_BC: Tensor,
        slot_B: Tensor,
        texts: TextRows | None = None,
    ) -> Self:
        """Five tensors, and texts."""
        batch = super().__new__(cls, wave_BT, frames_B, clip_id_B, labels_BC, slot_B)
        batch.texts = texts
        return batch

    def _replace(self, **changes: Any) -> Self:
        """A batch with some fields replaced."""
        texts = changes.pop("texts", self.texts)
        batch = super()._replace(**changes)
        batch.texts = texts
        return batch
