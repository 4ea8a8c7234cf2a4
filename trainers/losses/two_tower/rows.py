"""The rows of both towers on this rank, and what all ranks must agree on about them.

Shape suffixes: n audio rows of this rank, m its texts, d projection width, C tags.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainers.distributed import collectives
from trainers.distributed.collectives import Group
from trainers.losses.contrastive.agreement import DTYPES, compare
from trainers.losses.contrastive.settings import check_temperature


class TowerRows(NamedTuple):
    """The rows of this rank, as `two_tower_loss` documents them."""

    z_audio: Tensor
    z_text: Tensor
    clip_audio: Tensor
    clip_text: Tensor
    hard: Tensor | None = None
    present: Tensor | None = None
    text_hash: Tensor | None = None
    tags_audio: Tensor | None = None
    tags_text: Tensor | None = None

    @property
    def present_m(self) -> Tensor:
        """Which texts are there."""
        return torch.ones_like(self.clip_text, dtype=torch.bool) if self.present is None else self.present

    @property
    def true_m(self) -> Tensor:
        """Which texts are there and no hard negatives."""
        return self.present_m if self.hard is None else self.present_m & ~self.hard


class TowerAgreement(NamedTuple):
    """What the ranks found out about each other."""

    num_true: list[int]
    """Texts of each rank that are anchors."""
    num_hard: list[int]
    """Hard negatives of each rank that are there."""
    wants_gradient: bool
    """Whether any rank does."""
    temperature: float


def problem_with(rows: TowerRows) -> str | None:
    """Why these rows cannot have a loss; None when they can."""
    for name in ("z_audio", "z_text"):
        z = getattr(rows, name)
        if z.ndim != 2 or 0 in z.shape:
            return f"{name} must be (rows, width), neither of them 0, got {tuple(z.shape)}"
        if z.dtype not in DTYPES:
            return f"{name} must be float32 or float64, got {z.dtype}; call {name}.float() first"
    if rows.z_audio.shape[1] != rows.z_text.shape[1]:
        return f"both towers must have one width, got {rows.z_audio.shape[1]} and {rows.z_text.shape[1]}"
    if rows.z_audio.dtype != rows.z_text.dtype:
        return f"both towers must have one dtype, got {rows.z_audio.dtype} and {rows.z_text.dtype}"
    return _problem_with_numbers(rows) or _problem_with_tags(rows)


def _problem_with_numbers(rows: TowerRows) -> str | None:
    lengths = {"clip_audio": len(rows.z_audio)} | dict.fromkeys(
        ("clip_text", "hard", "present", "text_hash"), len(rows.z_text)
    )
    for name, length in lengths.items():
        given = getattr(rows, name)
        dtype = torch.bool if name in ("hard", "present") else torch.int64
        if given is not None and (given.shape != (length,) or given.dtype != dtype):
            kind = str(dtype).removeprefix("torch.")
            return f"{name} must be {kind} of shape ({length},), got {given.dtype} of shape {tuple(given.shape)}"
    return None


def _problem_with_tags(rows: TowerRows) -> str | None:
    audio, text = rows.tags_audio, rows.tags_text
    if audio is None and text is None:
        return None
    if audio is None or text is None:
        return "tags_audio and tags_text go together: a text is compared with the tags of every clip"
    for name, tags, z in (("tags_audio", audio, rows.z_audio), ("tags_text", text, rows.z_text)):
        if tags.ndim != 2 or len(tags) != len(z) or tags.dtype != torch.bool:
            return f"{name} must be bool of shape ({len(z)}, tags), got {tags.dtype} of shape {tuple(tags.shape)}"
    if audio.shape[1] != text.shape[1]:
        return f"tags_audio and tags_text must have the same tags, got {audio.shape[1]} and {text.shape[1]}"
    return None


def agree(rows: TowerRows, temperature: float | Tensor, bias: float | Tensor | None, group: Group) -> TowerAgreement:
    """Compare the shapes of all ranks and collect what each has to know of the others, with one all-gather. Raises
    ValueError for rows of any rank that cannot have a loss, shapes that differ, or a temperature that is not positive.
    """
    problem = problem_with(rows)
    learned = [x for x in (rows.z_audio, rows.z_text, temperature, bias) if isinstance(x, Tensor)]
    wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in learned)
    shape = dict.fromkeys(("audio rows", "texts", "width", "tags", "hashes"), 0)
    counts: tuple[float | Tensor, float | Tensor] = (0, 0)
    if problem is None:
        tags = 0 if rows.tags_audio is None else rows.tags_audio.shape[1]
        sizes = (len(rows.z_audio), *rows.z_text.shape, tags, int(rows.text_hash is not None))
        shape = dict(zip(shape, sizes, strict=True))
        counts = rows.true_m.sum(), rows.present_m.sum()
    ranks = compare(shape, (*counts, wants_gradient, temperature), problem, like=rows.z_audio, group=group)
    tau = ranks[collectives.rank(group)][3]
    check_temperature(tau)
    num_true, num_present = ([int(row[place]) for row in ranks] for place in (0, 1))
    num_hard = [present - true for present, true in zip(num_present, num_true, strict=True)]
    return TowerAgreement(num_true, num_hard, any(row[2] for row in ranks), tau)
