"""The page of a set: what is in it, no script from a set's text, bounded in size."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.format.records import Listing
from data_shards.inspect.data_uris import BANDS, RANGE_DB, spectrogram_db
from data_shards.inspect.page import MAX_BARS, label_lines, write_page
from data_shards.read.reader import ShardSet
from data_shards.sources.folder import read_folder
from tests.hostile_page import EVIL, Seen

MakeFolder = Callable[..., tuple[Path, Path]]
RATE = 22_050


@pytest.fixture
def page(make_folder: MakeFolder, tmp_path: Path) -> Seen:
    """The page of six clips, whose every word is hostile."""
    clips = [
        replace(
            clip,
            track=f"{EVIL}{number}",
            licence=EVIL,
            multilabel={EVIL: (EVIL, "calm")},
            categorical={"key": f'"><img src=x onerror={EVIL}>'},
            captions=(EVIL,),
        )
        for number, clip in enumerate(read_folder(*make_folder(6, frames=30_000)).clips)
    ]
    build(Listing(tuple(clips), notes=(f"note {EVIL}",)), tmp_path / "set", BuildConfig(workers=1))
    with ShardSet.open(tmp_path / "set") as shards:
        write_page(shards, tmp_path / "page.html", previews=4)
    return Seen((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_no_word_of_a_set_becomes_part_of_the_page(page: Seen) -> None:
    assert "script" not in page.tags
    assert page.text.count(EVIL) > 12
    assert page.tags.count("img") == page.tags.count("audio") == 4
    assert all(source.startswith(("data:image/png;", "data:audio/mpeg;")) for source in page.sources)


def test_labels_are_a_line_a_column_and_tags_are_words() -> None:
    labels = {"multilabel.tags": ("calm", "piano"), "categorical.key": "C", "numeric.bpm": 120.0}
    index: Any = SimpleNamespace(labels_of=lambda _: labels)
    assert label_lines(index, 0) == ["tags: calm, piano", "key: C", "bpm: 120.0"]


def test_the_page_has_what_show_prints(page: Seen, tmp_path: Path) -> None:
    index = read_index(tmp_path / "set")
    for text in ("6 clips", "train 3, valid 2, test 1", index.manifest_hash, "bpm", "6, of 6 clips", f"note {EVIL}"):
        assert text in page.text


def test_the_players_play_the_clips(page: Seen, tmp_path: Path) -> None:
    sounds = [source.partition(",")[2] for source in page.sources if "audio" in source]
    with ShardSet.open(tmp_path / "set") as shards:
        rows = np.argsort(shards.index.id_hash)[:4].tolist()
        for row, sound in zip(rows, sounds, strict=True):
            wave_T, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)), dtype="float32")
            assert rate == RATE
            truth_T = shards.read_window(row, 0, 30_000).astype(np.float32)
            heard_T = wave_T[:30_000]
            lags = np.fft.irfft(np.fft.rfft(truth_T, 65_536).conj() * np.fft.rfft(heard_T, 65_536))
            assert lags.max() > 0.7 * np.linalg.norm(truth_T) * np.linalg.norm(heard_T)


def test_a_damaged_clip_is_reported_in_its_place(make_folder: MakeFolder, tmp_path: Path) -> None:
    build(read_folder(*make_folder(3)).clips, tmp_path / "set", BuildConfig(workers=1))
    index = read_index(tmp_path / "set")
    with (tmp_path / "set/shard-00000.tar").open("r+b") as file:
        file.seek(int(index.offset[1]) + 1_000)
        file.write(b"damage")
    with ShardSet.open(tmp_path / "set") as shards:
        write_page(shards, tmp_path / "page.html")
    seen = Seen((tmp_path / "page.html").read_text())
    assert seen.text.count("cannot be read: shard-00000.tar, clip") == 1
    assert seen.tags.count("audio") == 2


def test_the_page_stays_small_however_many_tags_and_however_long_the_clips(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    clips = [
        replace(clip, multilabel={"tags": tuple(f"tag {number}" for number in range(300))})
        for clip in read_folder(*make_folder(2, frames=40 * RATE)).clips
    ]
    build(clips, tmp_path / "set", BuildConfig(workers=1))
    with ShardSet.open(tmp_path / "set") as shards:
        write_page(shards, tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text()
        assert len(re.findall("<b>tag [0-9]+</b>", text)) == MAX_BARS
        assert len(text) < 600_000
        with pytest.raises(ValueError, match="previews must be 0 to 24, got 25"):
            write_page(shards, tmp_path / "page.html", previews=25)


@pytest.mark.parametrize("hz", [100.0, 440.0, 3_000.0])
def test_a_tone_lights_its_band(hz: float) -> None:
    wave_T = (10_000 * np.sin(2 * np.pi * hz * np.arange(RATE) / RATE)).astype(np.int16)
    level_FS = spectrogram_db(wave_T, RATE)
    edges_hz = np.geomspace(40, RATE / 2, BANDS + 1)
    band = int(level_FS.mean(axis=1).argmax())
    assert edges_hz[band] - RATE / 2_048 <= hz <= edges_hz[band + 1] + RATE / 2_048
    assert level_FS.max() == 0


@pytest.mark.parametrize("frames", [1, 100, 5_000])
def test_silence_and_short_clips_have_a_picture(frames: int) -> None:
    assert (spectrogram_db(np.zeros(frames, np.int16), RATE) == -RANGE_DB).all()
    assert np.isfinite(spectrogram_db(np.full(frames, 9, np.int16), RATE)).all()
