"""FAULTS 22 turned round: what a container does not state is read to its end, what it does state must be there."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from data_shards.audio import decode as audio
from data_shards.audio.decode import AudioError, decode
from data_shards.audio.mpeg import find_mpeg
from data_shards.audio.ogg import _with_granule, read_ogg

RATE = 22_050
FRAME = 576
"""Samples of an MPEG-2 frame, Layer III."""
SECONDS = 4.0
ID3V2 = b"ID3\x04\0\0\0\0\x10\0" + bytes(2_048)
ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + struct.pack("<IIII", 2_000, 3_000, 1, 0) + bytes(8 + 3_000)


def noise(seconds: float = SECONDS, rate: int = RATE) -> NDArray[np.float32]:
    """Silence and then noise: a variable bitrate begins low."""
    wave = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate)).astype(np.float32)
    wave[: len(wave) // 3] = 0
    return wave


def written(wave: NDArray[np.float32], rate: int = RATE, **how: object) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, **how)
    return buffer.getvalue()


def mp3(mode: str = "VARIABLE", rate: int = RATE) -> bytes:
    """MP3 without its Xing or Info header."""
    whole = written(noise(rate=rate), rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    found = find_mpeg(whole)
    assert found is not None
    assert found.stated is not None
    return whole[found.audio[0][0] :]


def length_of(tmp_path: Path, content: bytes, name: str = "sound.mp3") -> int:
    path = tmp_path / name
    path.write_bytes(content)
    return len(decode(path)[0])


# --- MP3 that states no length ---


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT", "AVERAGE"])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])  # MPEG-2.5, MPEG-2, MPEG-1
def test_an_mp3_without_a_header_of_its_length_is_read_to_its_end(tmp_path: Path, mode: str, rate: int) -> None:
    samples = length_of(tmp_path, mp3(mode, rate))
    assert SECONDS * rate <= samples <= SECONDS * rate + 4 * 1_152


@pytest.mark.parametrize(
    "around",
    [
        lambda frames: ID3V2 + frames,
        lambda frames: ID3V2 + ID3V2 + frames,
        lambda frames: frames + ID3V1,
        lambda frames: frames + APE + ID3V1,
        lambda frames: APE + frames,
        lambda frames: bytes(5_000) + frames,
        lambda frames: b"junk" * 100 + frames,
        lambda frames: frames + np.random.default_rng(1).bytes(50_000),
    ],
    ids=["ID3v2", "ID3v2 twice", "ID3v1", "APE and ID3v1", "APE in front", "zeros in front", "junk in front", "behind"],
)
def test_tags_and_junk_around_the_frames_change_no_sample(tmp_path: Path, around: Callable[[bytes], bytes]) -> None:
    frames = mp3()
    bare = decode(_file(tmp_path, "bare.mp3", frames))[0]
    np.testing.assert_array_equal(decode(_file(tmp_path, "tagged.mp3", around(frames)))[0], bare)


def test_junk_between_frames_loses_no_frame(tmp_path: Path) -> None:
    frames = mp3("CONSTANT")
    found = find_mpeg(frames)
    assert found is not None
    middle = found.longest * 20
    cut = frames.find(b"\xff\xf3", middle)
    torn = frames[:cut] + bytes(5_000) + frames[cut:]
    assert length_of(tmp_path, torn) == length_of(tmp_path, frames)


def test_free_format_frames_are_read_to_their_end(tmp_path: Path) -> None:
    frames = bytearray(mp3("CONSTANT", 48_000))  # at 48 kHz no frame is padded, so all are of one length
    found = find_mpeg(bytes(frames))
    assert found is not None
    for place in range(0, found.num_frames * found.longest, found.longest):
        frames[place + 2] &= 0x0F
    assert length_of(tmp_path, ID3V2 + bytes(frames)) == found.num_frames * 1_152


def test_a_second_mp3_that_was_appended_is_read_too(tmp_path: Path) -> None:
    one = written(noise(), format="MP3")
    assert length_of(tmp_path, one + one) == pytest.approx(2 * SECONDS * RATE, abs=6 * FRAME)


def vbri(frames: int, size: int) -> bytes:
    header = bytearray(mp3("CONSTANT", 24_000)[:4] + bytes(600))
    found = find_mpeg(mp3("CONSTANT", 24_000))
    assert found is not None
    header[36:54] = b"VBRI" + struct.pack(">HHHII", 1, 0, 0, size, frames)
    return bytes(header[: found.longest])


def test_a_vbri_header_is_believed(tmp_path: Path) -> None:
    frames = mp3("CONSTANT", 24_000)  # no frame is padded
    found = find_mpeg(frames)
    assert found is not None
    whole = vbri(found.num_frames, len(frames) + found.longest)
    assert length_of(tmp_path, whole + frames) == length_of(tmp_path, frames)
    with pytest.raises(AudioError, match="truncated: its VBRI header promises"):
        length_of(tmp_path, (whole + frames)[: len(frames) // 2])


def test_a_xing_header_without_bytes_is_believed(tmp_path: Path) -> None:
    whole = bytearray(written(noise(), format="MP3"))
    at = max(whole.find(b"Info"), whole.find(b"Xing"))
    frames_only = whole[:at] + b"Xing" + struct.pack(">I", 1) + whole[at + 8 : at + 12] + bytes(116) + whole[at + 128 :]
    found = find_mpeg(bytes(frames_only))
    assert found is not None
    assert found.stated is not None
    assert found.stated.size is None
    with pytest.raises(AudioError, match="truncated"):
        length_of(tmp_path, bytes(frames_only[: len(frames_only) // 2]))


# --- sizes that were never filled in ---


def _file(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


PLACEHOLDERS = [0, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFFFDB, 0x80000000, 0x80000024, 0xFFFFFFFF, 0xFFFFFFDB, 0xFFFFFF00]


@pytest.mark.parametrize("size", PLACEHOLDERS, ids=hex)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "MS_ADPCM", "GSM610"])
def test_a_streamed_wav_is_read_to_its_end(tmp_path: Path, size: int, subtype: str) -> None:
    whole = written(noise(), format="WAV", subtype=subtype)
    at = whole.index(b"data") + 4
    streamed = whole[:4] + struct.pack("<I", size) + whole[8:at] + struct.pack("<I", size) + whole[at + 4 :]
    assert length_of(tmp_path, streamed, "s.wav") == length_of(tmp_path, whole, "w.wav")


@pytest.mark.parametrize("size", PLACEHOLDERS, ids=hex)
def test_a_streamed_au_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    whole = written(noise(), format="AU")
    assert length_of(tmp_path, whole[:8] + struct.pack(">I", size) + whole[12:], "s.au") == SECONDS * RATE


@pytest.mark.parametrize("size", PLACEHOLDERS, ids=hex)
def test_a_streamed_aiff_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    whole = bytearray(written(noise(), format="AIFF"))
    for at in (4, whole.index(b"COMM") + 10, whole.index(b"SSND") + 4):
        whole[at : at + 4] = struct.pack(">I", size)
    assert length_of(tmp_path, bytes(whole), "s.aiff") == SECONDS * RATE


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF], ids=hex)
@pytest.mark.parametrize("container", ["RF64", "W64", "CAF"])
def test_a_stream_in_a_container_of_64_bits_is_read_to_its_end(tmp_path: Path, size: int, container: str) -> None:
    whole = bytearray(written(noise(), format=container))
    order = ">" if container == "CAF" else "<"
    places = {
        "RF64": [whole.find(b"ds64") + 8 * i for i in (1, 2, 3)],
        "W64": [16, whole.find(b"data") + 16],
        "CAF": [whole.find(b"data") + 4],
    }
    for at in places[container]:
        whole[at : at + 8] = struct.pack(f"{order}Q", size)
    assert length_of(tmp_path, bytes(whole), f"s.{container.lower()}") == SECONDS * RATE


def test_chunks_behind_no_samples_are_no_samples(tmp_path: Path) -> None:
    whole = written(noise(0), format="WAV") + b"LIST\x04\0\0\0abcd"
    with pytest.raises(AudioError, match="holds no samples"):
        length_of(tmp_path, whole, "s.wav")


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    whole = bytearray(written(noise(), format="FLAC"))
    whole[21] &= 0xF0
    whole[22:26] = bytes(4)
    assert length_of(tmp_path, bytes(whole), "s.flac") == SECONDS * RATE
    assert length_of(tmp_path, ID3V2 + bytes(whole), "t.flac") == SECONDS * RATE


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("granule", [0, 0xFFFFFFFFFFFFFFFF])
def test_an_ogg_without_a_final_granule_is_read_to_its_end(tmp_path: Path, subtype: str, granule: int) -> None:
    whole = written(noise(12.0, 24_000), 24_000, format="OGG", subtype=subtype)
    last = whole.rfind(b"OggS")
    blank = bytearray(whole)
    blank[last + 6 : last + 14] = struct.pack("<Q", granule)
    stated = 12 * 24_000
    assert stated <= length_of(tmp_path, bytes(blank), "s.ogg") <= stated + 24_000 * 0.3
    assert read_ogg(whole).links == ()


@pytest.mark.parametrize("beyond", [1, 224, 4_096])
def test_an_ogg_whose_last_granule_counts_a_little_too_far_is_read(tmp_path: Path, beyond: int) -> None:
    whole = written(noise(12.0), RATE, format="OGG", subtype="VORBIS")
    assert length_of(tmp_path, _with_granule(whole, 12 * RATE + beyond), "s.ogg") <= 12 * RATE + beyond
    with pytest.raises(AudioError, match="truncated"):
        length_of(tmp_path, _with_granule(whole, 13 * RATE), "far.ogg")


def test_an_ogg_that_lost_a_page_is_refused(tmp_path: Path) -> None:
    whole = written(noise(12.0), RATE, format="OGG", subtype="VORBIS")
    starts = [i for i in range(len(whole)) if whole.startswith(b"OggS", i)]
    first, second = starts[len(starts) // 2 : len(starts) // 2 + 2]
    with pytest.raises(AudioError, match="truncated"):
        length_of(tmp_path, whole[:first] + whole[second:], "s.ogg")
    flipped = bytearray(whole)
    flipped[(first + second) // 2] ^= 8
    with pytest.raises(AudioError, match="truncated"):
        length_of(tmp_path, bytes(flipped), "t.ogg")
    assert read_ogg(whole).slack > 0  # however few samples are lost, a broken file is given none
    assert read_ogg(whole[:first] + whole[second:]).slack == read_ogg(bytes(flipped)).slack == 0


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_every_stream_of_a_chained_ogg_is_read(tmp_path: Path, subtype: str) -> None:
    one = written(noise(2.0, 24_000), 24_000, format="OGG", subtype=subtype)
    assert length_of(tmp_path, one + one + one, "s.ogg") == 3 * 2 * 24_000
    other = written(noise(2.0, 48_000), 48_000, format="OGG", subtype="VORBIS")
    with pytest.raises(AudioError, match="several rates"):
        length_of(tmp_path, one + other, "s.ogg")


def test_what_is_decoded_is_bounded_where_nothing_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, "s.mp3", mp3())
    monkeypatch.setattr(audio, "MAX_SAMPLES", RATE)
    monkeypatch.setattr(audio, "BLOCK_FRAMES", 4_096)
    with pytest.raises(AudioError, match="holds more than 22,050 samples; cut it"):
        decode(path)


# --- what is stated must be there ---


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "GSM610"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "FLOAT"),
     ("AIFF", "PCM_16"), ("AIFF", "IMA_ADPCM"), ("AU", "PCM_16"), ("AU", "G721_32"), ("CAF", "PCM_16"),
     ("CAF", "ALAC_16"), ("SVX", "PCM_16"), ("NIST", "PCM_16"), ("VOC", "PCM_16"), ("FLAC", "PCM_16"),
     ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_file_whose_container_states_its_length_is_refused(
    tmp_path: Path, container: str, subtype: str, share: float
) -> None:
    rate = 24_000 if subtype == "OPUS" else RATE
    whole = written(noise(rate=rate), rate, format=container, subtype=subtype)
    length_of(tmp_path, whole, "whole")
    with pytest.raises(AudioError, match=r"truncated|cannot be decoded"):
        length_of(tmp_path, whole[: int(share * len(whole))], "cut")


@pytest.mark.parametrize("container", ["AVR", "MAT4", "MAT5", "MPC2K", "PAF", "PVF", "SD2", "SDS", "XI"])
def test_formats_in_which_a_cut_cannot_be_found_are_refused(tmp_path: Path, container: str) -> None:
    path = tmp_path / "sampler"
    soundfile.write(path, noise(), RATE, format=container, subtype="DPCM_16" if container == "XI" else "PCM_16")
    with pytest.raises(AudioError, match=r"in which a cut cannot be found|libsndfile reads no format"):
        decode(path)
