"""Faults 18–28 at ingest: an audio file becomes sound mono int16, or is refused with the reason."""

import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.audio.decode import MAX_PEAK, AudioError, FileAudio, decode, to_int16
from data_shards.build.build import BuildConfig, build
from data_shards.format.records import Clip

RATE = 22_050
MAX_FILE_S = 1.0
"""CPU time that reading one file may take, however it was damaged (Faults 23)."""
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def tone(seconds: float = 1.0, rate: int = RATE, hz: float = 440.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(
        extension: str, wave: NDArray[np.float32] | None = None, rate: int = RATE, subtype: str | None = None
    ) -> Path:
        path = tmp_path / f"sound.{extension}"
        soundfile.write(path, tone() if wave is None else wave, rate, subtype=subtype or FORMATS[extension])
        return path

    return make


# --- 22: truncated ---


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_refused_and_reported(write: Callable[..., Path], extension: str, share: float) -> None:
    path = write(extension, tone(3.0) + 0.1 * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32))
    whole = path.read_bytes()
    decode(path)
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(AudioError, match=r"truncated|cannot be decoded"):
        decode(path)


def test_an_ogg_cut_between_two_pages_is_refused(write: Callable[..., Path]) -> None:
    path = write("ogg", np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32) / 5)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rfind(b"OggS")])
    with pytest.raises(AudioError, match="does not end the stream"):
        decode(path)


def test_a_wav_of_unknown_length_is_read_to_its_end(write: Callable[..., Path]) -> None:
    path = write("wav")
    whole = bytearray(path.read_bytes())
    at = whole.index(b"data") + 4
    whole[at : at + 4] = b"\xff" * 4
    path.write_bytes(whole)
    assert len(decode(path)[0]) == RATE


# --- 18–21, 23: flipped bits and fuzz ---


class Fuzzed(NamedTuple):
    refused: int
    taken: int
    repaired: int
    """Ogg files whose checksums were made to fit what was damaged, so that the Vorbis decoder saw it."""
    slowest_s: float
    total_s: float


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def with_fitting_checksums(ogg: bytes) -> bytes:
    """The pages' CRC32 (polynomial 04c11db7, highest bit first, from 0) by zlib's, which is its mirror from ones."""
    pages = ogg.split(b"OggS")
    for number, page in enumerate(pages[1:], start=1):
        if len(page) >= 23:
            blank = b"OggS" + page[:18] + bytes(4) + page[22:]
            crc = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
            pages[number] = page[:18] + int(f"{crc:032b}"[::-1], 2).to_bytes(4, "little") + page[22:]
    return b"OggS".join(pages)


def mutate(whole: bytes, rng: np.random.Generator) -> bytes:
    mutated = bytearray(whole)
    kind = rng.integers(4)
    if kind == 0:
        mutated[int(rng.integers(len(mutated)))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        for place in rng.integers(0, len(mutated), 20):
            mutated[place] = int(rng.integers(256))
    elif kind == 2:
        mutated[: int(rng.integers(1, 100))] = rng.bytes(50)
    else:
        start = int(rng.integers(len(mutated)))
        del mutated[start : start + int(rng.integers(1, 2_000))]
    return bytes(mutated)


def fuzz(path: Path, rounds: int, seed: int) -> Fuzzed:
    """Decode mutations of a file, none of which may take long."""
    whole, rng = path.read_bytes(), np.random.default_rng(seed)
    refused = repaired = 0
    spent_s = []
    for _ in range(rounds):
        mutated = mutate(whole, rng)
        if path.suffix == ".ogg" and rng.random() < 0.5:
            mutated = with_fitting_checksums(mutated)
            repaired += 1
        path.write_bytes(mutated)
        started_s = time.thread_time()  # of this thread's CPU: a busy machine makes no file slow
        try:
            wave, rate = decode(path)
            quantised = to_int16(wave, rate, RATE)
        except AudioError:
            refused += 1
            continue
        finally:
            spent_s.append(time.thread_time() - started_s)
        assert np.isfinite(wave).all()
        assert np.abs(wave).max() <= MAX_PEAK
        assert quantised.dtype == np.int16
    result = Fuzzed(refused, rounds - refused, repaired, max(spent_s), sum(spent_s))
    print(f"{path.suffix}: {result}")  # pytest -s shows it
    assert result.slowest_s < MAX_FILE_S
    return result


def test_checksums_that_were_made_to_fit_are_those_of_an_encoder(write: Callable[..., Path]) -> None:
    whole = write("ogg").read_bytes()
    damaged = whole.replace(whole[22:26], bytes(4))
    assert damaged != whole
    assert with_fitting_checksums(damaged) == whole


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.timeout(120)
def test_fuzzed_files_are_sound_or_refused(write: Callable[..., Path], extension: str) -> None:
    """With the mutated shards of test_shards.py these are the 10^4 of CI's budget."""
    found = fuzz(write(extension, tone(0.1)), rounds=2_000, seed=0)
    assert found.refused > 200
    assert found.taken > 20  # what is taken has been decoded to its end


@pytest.mark.slow
@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.timeout(3_600)
def test_a_hundred_thousand_fuzzed_files_are_sound_or_refused(write: Callable[..., Path], extension: str) -> None:
    found = fuzz(write(extension, tone(0.3)), rounds=25_000, seed=1)
    assert found.refused > 2_500
    assert found.taken > 50  # every frame of FLAC has its checksum


def test_a_flipped_bit_in_flac_is_refused(write: Callable[..., Path]) -> None:
    path = write("flac")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(200, len(whole), 30):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(AudioError):
            decode(path)


# --- 24: headers that promise too much ---


@pytest.mark.timeout(5)
def test_a_header_that_promises_the_moon_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "sound.flac"
    soundfile.write(path, tone(), RATE)
    whole = bytearray(path.read_bytes())
    whole[21] = whole[21] & 0xF0 | 0x0F  # the 36 bits of STREAMINFO's length
    whole[22:26] = b"\xff" * 4
    path.write_bytes(whole)
    with pytest.raises(AudioError, match=r"promises 68,719,476,735 frames"):
        decode(path)
    path = tmp_path / "sound.au"
    path.write_bytes(struct.pack(">4sIIIII", b".snd", 24, 0xFFFFFFFF, 27, RATE, 1) + bytes(1_000))
    assert len(decode(path)[0]) == 1_000  # an AU of unknown length holds what is there


# --- 25, 26: what the samples are ---


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused(tmp_path: Path, bad: float) -> None:
    wave = tone()
    wave[1_000] = bad
    soundfile.write(tmp_path / "sound.wav", wave, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or Inf"):
        to_int16(*decode(tmp_path / "sound.wav"), RATE)


def test_a_peak_far_over_full_scale_is_refused_and_a_small_one_is_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "sound.wav", tone() * 2e5, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a peak of 1e\+05"):
        to_int16(*decode(tmp_path / "sound.wav"), RATE)
    loud = to_int16(tone() * 4, RATE, RATE)
    assert loud.max() == 32_767
    assert loud.min() == -32_768


def test_silence_is_kept_and_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE, np.float32), RATE)
    soundfile.write(tmp_path / "tone.wav", tone(), RATE)
    summary = build(clips_of(tmp_path, "silence.wav", "tone.wav"), tmp_path / "set", BuildConfig(workers=1))
    assert summary.clips == 2
    assert summary.silent == ("silence",)


# --- 27, 28: form ---


def clips_of(folder: Path, *names: str) -> list[Clip]:
    return [Clip(key=name.split(".")[0], audio=FileAudio(str(folder), name), track=name) for name in names]


def test_a_clip_that_is_too_short_is_rejected_and_counted(tmp_path: Path) -> None:
    for number in range(4):
        soundfile.write(tmp_path / f"c{number}.wav", tone(0.05 if number == 2 else 1.0), RATE)
    clips = clips_of(tmp_path, *(f"c{number}.wav" for number in range(4)))
    summary = build(clips, tmp_path / "set", BuildConfig(workers=1, max_rejected=0.25))
    assert [rejected.key for rejected in summary.rejected] == ["c2"]
    assert "0.05 s long, shorter than build.shortest_s = 0.1 s" in summary.rejected[0].why
    with pytest.raises(UserError, match=r"(?s)1 of the first 4 clips.*c2\.wav: 0\.05 s.*raise build\.max_rejected"):
        build(clips, tmp_path / "none", BuildConfig(workers=1))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("channels", "rate", "reason"),
    [(1, 1, "1 Hz"), (1, 655_350, "655,350 Hz"), (17, RATE, "17 channels"), (1, 3_999, "3,999 Hz")],
)
def test_an_impossible_form_is_refused_with_the_reason(tmp_path: Path, channels: int, rate: int, reason: str) -> None:
    soundfile.write(tmp_path / "sound.wav", np.zeros((5_000, channels), np.float32), rate)
    with pytest.raises(AudioError, match=reason):
        decode(tmp_path / "sound.wav")


def test_no_samples_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "sound.wav", np.zeros(0, np.float32), RATE)
    with pytest.raises(AudioError, match="holds no samples"):
        decode(tmp_path / "sound.wav")


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_are_mixed_to_their_mean(tmp_path: Path, channels: int) -> None:
    waves = np.stack([tone(hz=220.0 * (1 + number)) for number in range(channels)], axis=1)
    soundfile.write(tmp_path / "sound.wav", waves, RATE, subtype="FLOAT")
    mono = to_int16(*decode(tmp_path / "sound.wav"), RATE)
    np.testing.assert_allclose(mono / 32_768, waves.mean(axis=1), atol=1 / 32_768)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000, 96_000])
def test_resampling_keeps_a_tone_where_it_is(rate: int) -> None:
    mono = to_int16(tone(1.0, rate, hz=1_000.0), rate, RATE) / 32_768
    assert abs(len(mono) - RATE) <= 1
    middle = slice(2_000, 20_000)
    expected = tone(1.0, RATE, hz=1_000.0)
    assert np.abs(mono[middle] - expected[middle]).max() < 1e-3


def test_what_lies_above_the_new_nyquist_is_gone() -> None:
    mono = to_int16(tone(1.0, 48_000, hz=15_000.0), 48_000, RATE) / 32_768
    assert np.abs(mono[2_000:20_000]).max() < 1e-3


def test_sixteen_bits_at_the_right_rate_are_kept_bit_for_bit(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32_768, 32_768, RATE).astype(np.int16)
    soundfile.write(tmp_path / "sound.wav", samples, RATE)
    assert np.array_equal(to_int16(*decode(tmp_path / "sound.wav"), RATE), samples)


# --- files that are not audio ---


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"hello world, not audio", "cannot be decoded"), (None, "no such file")]
)
def test_what_is_no_audio_is_refused_without_this_machines_paths(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "sound.mp3"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AudioError, match=reason) as caught:
        decode(path)
    assert str(tmp_path) not in str(caught.value)


def test_an_unreadable_file_among_many_is_named_and_counted(tmp_path: Path) -> None:
    names = [f"c{number:03d}.wav" for number in range(100)]
    for name in names:
        soundfile.write(tmp_path / name, tone(0.2), RATE)
    (tmp_path / "c042.wav").write_bytes(b"RIFF, but nothing that follows from it")
    summary = build(clips_of(tmp_path, *names), tmp_path / "set", BuildConfig(workers=1))
    assert summary.clips == 99
    assert [(rejected.key, rejected.name) for rejected in summary.rejected] == [("c042", str(tmp_path / "c042.wav"))]
