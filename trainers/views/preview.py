"""What the encoder reads at a step: the views of training beside the segments they were made of, each with a
description of its draws; and each effect alone.

Shape suffixes: T samples of a sound, F bands, S frames.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluster.files.storage import atomic_folder, write_atomic
from cluster.settings import UserError
from data_shards.format.records import SAMPLE_RATE, Batch, Windows
from data_shards.inspect.data_uris import png, spectrogram_db
from data_shards.inspect.page import label_lines
from trainers.augment.chain import AugmentChain
from trainers.augment.corruptions import CORRUPTIONS, corrupt
from trainers.augment.description import in_words
from trainers.augment.drawing import ViewParameters, join
from trainers.augment.dsp.spectral import KINDS
from trainers.augment.parameters import EFFECTS, AugmentConfig
from trainers.config import ExperimentConfig
from trainers.frontends.config import FrontendConfig
from trainers.views.batches import open_batches
from trainers.views.views import FULL_SCALE, ViewMaker, Views, read_frames, window_frames

DESCRIPTION = "description.json"
"""Draws in words; the file marks a folder of sounds that `write_sounds` made."""
SEVERITIES = (2.0, 4.0)
KIND_DRAWS = 256
"""Draws among which one of each kind of filter is looked for."""


class Sound(NamedTuple):
    """A wave, and what the encoder reads of it."""

    wave_T: NDArray[np.float32]
    picture_FS: NDArray[np.float32]
    """The front-end's bands; of a front-end that hands on samples, a spectrogram in dB."""


class RenderedView(NamedTuple):
    """One view or effect."""

    name: str
    description: str
    """What was drawn, in words."""
    before: Sound
    after: Sound


@dataclass(frozen=True, kw_only=True)
class RenderedClip:
    """A clip and everything rendered from it."""

    slot: int
    key: str
    labels: str
    """Its labels as they stand in its set."""
    window_T: NDArray[np.int16]
    """What the loader read, before anything was done to it."""
    versions: tuple[RenderedView, ...]


def render_step(config: ExperimentConfig, *, step: int, clips: int) -> list[RenderedClip]:
    """The views that the first training worker makes at a step, counted from 0, of its first ``clips`` clips at most.
    The number of workers divides the batch as in training, and with it the last bits.
    Raises UserError if the data do not allow it.
    """
    frames = window_frames(config.views, config.augment)
    batch, names = _read(config, step, frames)
    maker = ViewMaker(config.views, config.augment, config.frontend)
    waves = ViewMaker(config.views, config.augment, FrontendConfig()).make(batch, step=step, seed=config.seed)
    read = maker.make(batch, step=step, seed=config.seed)
    before_NL = maker.segments(batch, step=step, seed=config.seed).float() / FULL_SCALE
    B, M = len(batch.slot_B), config.views.count
    return [
        RenderedClip(
            slot=int(batch.slot_B[b]),
            key=names[b][0],
            labels=names[b][1],
            window_T=batch.wave_BT[b, : int(batch.frames_B[b])].numpy(),
            versions=tuple(_view(maker, waves, read, before_NL, m * B + b, name=f"view {m}") for m in range(M)),
        )
        for b in range(min(clips, B))
    ]


def render_effects(config: ExperimentConfig, *, step: int) -> RenderedClip:
    """The first clip of a step through each effect alone at the configuration's ranges, the whole chain at two
    severities, and the corruptions of the robustness study. Raises UserError if the data do not allow it.
    """
    views = replace(config.views, count=1, pair="adjacent")
    sure = _only(config.augment, EFFECTS)
    batch, names = _read(config, step, read_frames(views, sure))
    clip = Batch(*Windows._make(values[:1] for values in batch))
    maker = ViewMaker(views, sure, config.frontend)
    before_1L = maker.segments(clip, step=step, seed=config.seed).float() / FULL_SCALE
    drawn = _single_draws(config, clip.slot_B, step)
    parameters = join(list(drawn.values()))
    chain = AugmentChain(config.augment, SAMPLE_RATE)
    after_nT = chain.apply(before_1L.expand(len(drawn), -1), parameters, views.samples)
    versions = [
        RenderedView(
            name,
            in_words(parameters, row, SAMPLE_RATE, config.augment.order),
            _sound(_read_part(before_1L[0], parameters, row, views.samples), maker.frontend),
            _sound(after_nT[row], maker.frontend),
        )
        for row, name in enumerate(drawn)
    ]
    plain_1T = before_1L[:, : views.samples]
    plain = _sound(plain_1T[0], maker.frontend)
    for name in CORRUPTIONS:
        wave_1T = corrupt(name, plain_1T, clip.slot_B, sample_rate=SAMPLE_RATE, seed=config.seed)
        about = "as released for the robustness study; no training chain holds it"
        versions.append(RenderedView(name.replace("_", " "), about, plain, _sound(wave_1T[0], maker.frontend)))
    key, labels = names[0]
    window_T = batch.wave_BT[0, : int(batch.frames_B[0])].numpy()
    return RenderedClip(slot=int(batch.slot_B[0]), key=key, labels=labels, window_T=window_T, versions=tuple(versions))


def write_sounds(clips: Sequence[RenderedClip], folder: Path, *, facts: Mapping[str, Any]) -> None:
    """Write every sound as a WAV file, what the encoder reads as PNG, and the draws as ``description.json``.

    The views are 32-bit float, sample for sample what the front-end is given.
    An earlier folder is replaced; one that holds something else raises UserError.
    """
    require_own_folder(folder)
    low, high = picture_range(clips)
    described = [
        {
            "slot": clip.slot,
            "key": clip.key,
            "labels": clip.labels,
            "views": {v.name: v.description for v in clip.versions},
        }
        for clip in clips
    ]
    with atomic_folder(folder) as partial:
        for clip in clips:
            place = partial / f"slot-{clip.slot}"
            _write_wav(place / "window.wav", clip.window_T, "PCM_16")
            for view in clip.versions:
                stem = view.name.replace(" ", "-")
                for suffix, sound in (("-before", view.before), ("", view.after)):
                    _write_wav(place / f"{stem}{suffix}.wav", sound.wave_T, "FLOAT")
                    (place / f"{stem}{suffix}.png").write_bytes(png(sound.picture_FS, low, high))
        write_atomic(partial / DESCRIPTION, json.dumps({**facts, "clips": described}, indent=2, ensure_ascii=False))


def require_own_folder(folder: Path) -> None:
    """Refuse a folder that `write_sounds` did not make."""
    if folder.exists() and not (folder / DESCRIPTION).is_file():
        raise UserError(f"{folder} is there and holds no views; choose another --out")


def picture_range(clips: Sequence[RenderedClip]) -> tuple[float, float]:
    """Least and greatest value of all pictures: they share one scale."""
    pictures = [s.picture_FS for clip in clips for view in clip.versions for s in (view.before, view.after)]
    return min(float(p.min()) for p in pictures), max(float(p.max()) for p in pictures)


def pcm(wave_T: NDArray[np.float32]) -> tuple[NDArray[np.int16], float]:
    """A wave as int16, and the dB of attenuation that avoids clipping: the chain clips nothing."""
    peak = max(1.0, float(np.abs(wave_T).max(initial=0.0)))
    whole_T: NDArray[np.int16] = np.round(wave_T * ((FULL_SCALE - 1) / peak)).astype(np.int16)
    return whole_T, 20 * float(np.log10(peak))


def _read(config: ExperimentConfig, step: int, frames: int) -> tuple[Batch, list[tuple[str, str]]]:
    """The first worker's batch, and key and labels of each clip."""
    world = max(1, config.resources.num_workers)
    with open_batches(config, world=world, frames=frames) as loader:
        batch = next(loader.batches(step, step + 1))
        # By its hash, not by the plan: a damaged clip was replaced.
        ids = batch.clip_id_B.numpy()
        found = {s.index: s.index.rows_of(ids).tolist() for s in loader.sets if s}
        places = [
            next((index, rows[place]) for index, rows in reversed(found.items()) if rows[place] >= 0)
            for place in range(len(ids))
        ]
        return batch, [(str(index.key[row]), "; ".join(label_lines(index, row))) for index, row in places]


def _view(maker: ViewMaker, waves: Views, read: Views, before_NL: Tensor, row: int, *, name: str) -> RenderedView:
    wave_T = waves.input_N[row]
    before = _sound(_read_part(before_NL[row], waves.parameters, row, len(wave_T)), maker.frontend)
    description = in_words(waves.parameters, row, SAMPLE_RATE, maker.chain.config.order)
    return RenderedView(name, description, before, Sound(wave_T.numpy(), _picture(wave_T, read.input_N[row])))


def _read_part(wave_L: Tensor, drawn: ViewParameters, row: int, num_samples: int) -> Tensor:
    """What a view of ``num_samples`` reads: more at a faster tempo."""
    return wave_L[: round(num_samples * float(drawn.tempo[row]))]


@torch.no_grad()
def _sound(wave_T: Tensor, frontend: nn.Module) -> Sound:
    return Sound(wave_T.numpy(), _picture(wave_T, frontend(wave_T[None])[0]))


def _picture(wave_T: Tensor, read: Tensor) -> NDArray[np.float32]:
    picture_FS: NDArray[np.float32] = spectrogram_db(pcm(wave_T.numpy())[0], SAMPLE_RATE)
    return picture_FS if read.ndim == 1 else read.numpy()


def _only(augment: AugmentConfig, names: Sequence[str]) -> AugmentConfig:
    """These effects with probability 1, no others."""
    effects = {name: replace(getattr(augment, name), p=float(name in names)) for name in EFFECTS}
    return replace(augment, p=1.0, **effects)


def _single_draws(config: ExperimentConfig, slot: Tensor, step: int) -> dict[str, ViewParameters]:
    """Each effect alone, each kind of filter, and the chain at `SEVERITIES`; one row each."""

    def draw(augment: AugmentConfig, slots: Tensor) -> ViewParameters:
        return AugmentChain(augment, SAMPLE_RATE).draw(slots, step=step, seed=config.seed, view=0)

    drawn: dict[str, ViewParameters] = {}
    for name in EFFECTS:
        if name != "filter":
            drawn[name] = draw(_only(config.augment, [name]), slot)
            continue
        many = draw(_only(config.augment, [name]), torch.arange(KIND_DRAWS))
        for kind in range(1, len(KINDS)):
            drawn[KINDS[kind].replace("_", " ")] = many.rows((many.filter_kind == kind).nonzero()[:1, 0])
    for severity in SEVERITIES:
        drawn[f"severity {severity:g}"] = draw(config.augment.scaled(severity), slot)
    return drawn


def _write_wav(file: Path, wave_T: NDArray[Any], subtype: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, wave_T, SAMPLE_RATE, subtype=subtype)
