"""One HTML file with the sounds and pictures of views, before and after: no script, no external resource.

Text from a set is escaped; the size is bounded by `MAX_VERSIONS`, `MAX_S` and `MAX_FRAMES`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.files.outputs import require_writable_file, require_writable_folder
from cluster.files.storage import write_atomic
from cluster.files.templates import render
from data_shards.format.records import SAMPLE_RATE
from data_shards.inspect.data_uris import data_uri, mp3_uri, png
from data_shards.inspect.page import ASSETS
from trainers.config import ExperimentConfig
from trainers.views.preview import (
    RenderedClip,
    Sound,
    pcm,
    picture_range,
    render_effects,
    render_step,
    require_own_folder,
    write_sounds,
)

MAX_VERSIONS = 48
"""Pairs of sounds on a page; one of 2.7 s takes about 100 kB."""
MAX_S = 10.0
"""Of a sound; the WAV files are whole."""
MAX_FRAMES = 1024
"""Of a picture."""
EFFECTS_DESCRIPTION = "each effect alone, in the configuration's ranges; the chain at two severities; corruptions"
TEMPLATE = Path(__file__).parent / "assets/views.html"


class WrittenPreview(NamedTuple):
    """What was written."""

    page: Path
    sounds: Path
    clips: int
    on_page: int


def write_preview(config: ExperimentConfig, folder: Path, *, step: int, clips: int | None) -> WrittenPreview:
    """Write a page and its sounds: ``step-N`` or ``effects-step-N``, ``.html`` and a folder.

    Args:
        config: of the run.
        folder: where to.
        step: counted from 0.
        clips: number of the first worker's clips; None: each effect alone, on the first clip.

    Raises:
        UserError: if the data do not allow it, or the folder of sounds holds something else.
    """
    name = f"step-{step}" if clips else f"effects-step-{step}"
    sounds, page = folder / name, folder / f"{name}.html"
    require_writable_folder(folder, "--out")
    require_writable_file(page, "--out")
    require_own_folder(sounds)
    rendered = render_step(config, step=step, clips=clips) if clips else [render_effects(config, step=step)]
    facts = _facts(config, rendered[0], step) | ({} if clips else {"views": EFFECTS_DESCRIPTION})
    title = f"Views of step {step}" if clips else "Each effect alone"
    write_sounds(rendered, sounds, facts=facts)
    return WrittenPreview(page, sounds, len(rendered), write_page(rendered, page, title=title, facts=facts))


def write_page(clips: Sequence[RenderedClip], file: Path, *, title: str, facts: Mapping[str, str]) -> int:
    """Write the page; returns how many clips are on it."""
    shown: list[RenderedClip] = []
    versions = 0
    for clip in clips:
        versions += len(clip.versions)
        if shown and versions > MAX_VERSIONS:
            break
        shown.append(clip)
    scale = picture_range(shown)
    drawn = [_clip(clip, scale) for clip in shown]
    write_atomic(file, render(TEMPLATE, ASSETS, title=title, facts=facts.items(), clips=drawn))
    return len(shown)


def _facts(config: ExperimentConfig, clip: RenderedClip, step: int) -> dict[str, str]:
    """Facts of the run, shown on every page."""
    bands, frames = clip.versions[0].after.picture_FS.shape
    worker = f", worker 1 of {config.resources.num_workers}" if config.resources.num_workers > 1 else ""
    reads = f"{config.frontend.kind}, {bands} bands, {frames} frames: the pictures are what the encoder reads"
    if config.frontend.kind == "wave":
        reads = "the encoder reads the samples; the pictures are spectrograms from 40 Hz up"
    views, seconds = config.views, len(clip.window_T) / SAMPLE_RATE
    return {
        "draws": f"seed {config.seed}, step {step}{worker}",
        "views": f"{views.count} of {views.samples:,} samples, {views.pair}, of a window of {seconds:.2f} s",
        "front-end": reads,
    }


def _clip(clip: RenderedClip, scale: tuple[float, float]) -> dict[str, Any]:
    about = " · ".join(text for text in (f"slot {clip.slot}", clip.labels) if text)
    views = [
        {
            "name": view.name,
            "description": view.description,
            "sides": [_side("before", view.before, scale), _side("after", view.after, scale)],
        }
        for view in clip.versions[:MAX_VERSIONS]
    ]
    return {"key": clip.key, "about": about, "views": views}


def _side(which: str, sound: Sound, scale: tuple[float, float]) -> dict[str, str]:
    wave_T, quieter_db = pcm(sound.wave_T[: round(MAX_S * SAMPLE_RATE)])
    return {
        "which": which,
        "seconds": f"{len(sound.wave_T) / SAMPLE_RATE:.2f}",
        "picture": data_uri("image/png", png(sound.picture_FS[:, :MAX_FRAMES], *scale)),
        "sound": mp3_uri(wave_T, SAMPLE_RATE),
        "quieter_db": f"{quieter_db:.1f}" if quieter_db else "",
    }
