"""Lengths against ffmpeg's: every container and codec that libsndfile writes, and what ffmpeg writes to pipes."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from data_shards.audio.decode import AudioError, decode
from data_shards.audio.pyav import has_av

FFMPEG = shutil.which("ffmpeg")
pytestmark = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
RATE, SECONDS = 24_000, 4.0  # a rate that Opus has
TOLERANCE_S = 0.06
"""Two frames of MPEG-2: what is trimmed of an encoder's delay is the decoder's choice."""
CONTAINERS = ["AIFF", "AU", "CAF", "FLAC", "IRCAM", "MP3", "NIST", "OGG", "RF64", "SVX", "VOC", "W64", "WAV", "WAVEX"]
MISREAD = {"FLAC": {"PCM_S8"}, "WAV": {"NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32"}}
"""By ffmpeg 5.1: the length of these is that of what was written."""


def noise() -> NDArray[np.float32]:
    wave = 0.1 * np.random.default_rng(0).standard_normal(round(SECONDS * RATE)).astype(np.float32)
    wave[: len(wave) // 3] = 0  # a variable bitrate begins low
    return wave


def ffmpeg(*arguments: str) -> bytes:
    assert FFMPEG
    command = [FFMPEG, "-nostdin", "-loglevel", "error", "-y", *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


def seconds_by_ffmpeg(path: Path) -> float | None:
    """None where ffmpeg does not decode it."""
    try:
        return len(ffmpeg("-i", str(path), "-ac", "1", "-ar", str(RATE), "-f", "s16le", "-")) / 2 / RATE
    except subprocess.CalledProcessError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_codec_has_the_length_that_ffmpeg_finds(tmp_path: Path, container: str) -> None:
    compared = []
    for subtype in soundfile.available_subtypes(container):
        path = tmp_path / f"{subtype}.{container.lower()}"
        try:
            soundfile.write(path, noise(), RATE, format=container, subtype=subtype)
        except soundfile.LibsndfileError:
            continue  # named, but not written
        wave, rate = decode(path)
        theirs = SECONDS if subtype in MISREAD.get(container, ()) else seconds_by_ffmpeg(path)
        if theirs:
            compared.append(subtype)
            assert len(wave) / rate == pytest.approx(theirs, abs=TOLERANCE_S), subtype
    print(container, compared)  # pytest -s shows it
    assert compared


@pytest.mark.slow
@pytest.mark.parametrize("form", ["wav", "rf64", "w64", "au", "aiff", "caf", "flac", "ogg", "mp3", "mp2"])
def test_what_ffmpeg_writes_to_a_pipe_is_read_to_its_end(tmp_path: Path, form: str) -> None:
    soundfile.write(tmp_path / "in.wav", noise(), RATE)
    muxer = ["-f", "wav", "-rf64", "always"] if form == "rf64" else ["-f", form]
    stream = tmp_path / f"out.{form}"
    stream.write_bytes(ffmpeg("-i", str(tmp_path / "in.wav"), *muxer, "-"))
    wave, rate = decode(stream)
    assert len(wave) / rate == pytest.approx(SECONDS, abs=2 * TOLERANCE_S)


@pytest.mark.slow
@pytest.mark.parametrize("quality", [["-q:a", "9"], ["-q:a", "0"], ["-b:a", "64k"]], ids=["V9", "V0", "CBR"])
def test_an_mp3_of_ffmpeg_without_a_xing_header_is_whole(tmp_path: Path, quality: list[str]) -> None:
    soundfile.write(tmp_path / "in.wav", noise(), RATE)
    path = tmp_path / "out.mp3"
    ffmpeg("-i", str(tmp_path / "in.wav"), *quality, "-write_xing", "0", "-write_id3v1", "1", str(path))
    wave, rate = decode(path)
    assert len(wave) / rate == pytest.approx(seconds_by_ffmpeg(path), abs=TOLERANCE_S)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s.m4a", "s.aac", "s.wma", "s.mka", "s.wv", "s.tta", "alac.m4a"])
def test_what_libsndfile_does_not_decode_is_read_by_pyav_or_named_with_its_remedy(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / "in.wav", noise(), RATE)
    codec = ["-c:a", "alac"] if name == "alac.m4a" else []
    ffmpeg("-i", str(tmp_path / "in.wav"), *codec, str(tmp_path / name))
    path = (tmp_path / name).rename(tmp_path / "renamed.mp3")  # the content decides
    if not has_av():
        with pytest.raises(AudioError, match=r"is .*, which libsndfile does not decode; convert it: ffmpeg -i"):
            decode(path)
        return
    wave, rate = decode(path)
    assert len(wave) / rate == pytest.approx(SECONDS, abs=2 * TOLERANCE_S)
    assert np.abs(wave[: rate // 2]).max() < 1e-3 < np.abs(wave[-rate:]).max()
