"""One container in another, tags in front of it, one sound behind another: nothing is cut without a word."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_shards.audio import decode as audio
from data_shards.audio.chunks import PatchedFile
from data_shards.audio.decode import AudioError, decode
from tests.faults.test_audio_lengths import APE, ID3V1, ID3V2, RATE, SECONDS, _file, length_of, mp3, noise, written


def riff(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def mpeg_in_wav(frames: bytes) -> bytes:
    """As ffmpeg and sound recorders write it; no chunk states the number of frames."""
    layout = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8_000, 1, 0, 12, 1, 2, 522, 1, 1_393)
    return riff([(b"fmt ", layout), (b"fact", struct.pack("<I", 7)), (b"data", frames + bytes(len(frames) % 2))])


@pytest.mark.parametrize("around", [lambda wav: wav, lambda wav: ID3V2 + wav], ids=["bare", "tagged"])
def test_mpeg_frames_in_a_wav_are_read_to_their_end(tmp_path: Path, around: Callable[[bytes], bytes]) -> None:
    frames = mp3()
    bare = decode(_file(tmp_path, "bare.mp3", frames))[0]
    wav = mpeg_in_wav(frames)
    np.testing.assert_array_equal(decode(_file(tmp_path, "mpeg.wav", around(wav)))[0], bare)
    with pytest.raises(AudioError, match="truncated: its data chunk promises"):
        length_of(tmp_path, around(wav[: len(wav) // 2]), "cut.wav")


@pytest.mark.parametrize(
    ("container", "subtype"), [("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")]
)
def test_tags_in_front_of_any_container_change_no_sample(tmp_path: Path, container: str, subtype: str) -> None:
    whole = written(noise(), format=container, subtype=subtype)
    bare = decode(_file(tmp_path, "bare", whole))[0]
    for name, tag in {"ID3v2": ID3V2, "APE": APE}.items():
        np.testing.assert_array_equal(decode(_file(tmp_path, name, tag + whole))[0], bare)


def test_every_flac_that_was_appended_to_another_is_read(tmp_path: Path) -> None:
    one, two = written(noise(), format="FLAC"), written(noise(2.0), format="FLAC")
    assert length_of(tmp_path, one + ID3V1 + two, "both.flac") == (SECONDS + 2) * RATE
    with pytest.raises(AudioError, match=r"truncated|cannot be decoded"):
        length_of(tmp_path, one + two[: len(two) // 2], "cut.flac")


def test_a_second_sound_in_a_wav_is_never_passed_over(tmp_path: Path) -> None:
    whole = written(noise(), format="WAV")
    data = whole[whole.index(b"data") :]
    for appended in (whole, data):
        with pytest.raises(AudioError, match=f"holds a second sound at byte {len(whole):,}"):
            length_of(tmp_path, whole + appended, "two.wav")


KEPT = [(f, s) for f in ("AIFF", "AU", "CAF", "SVX", "W64", "NIST", "VOC", "RF64", "WAVEX") for s in ("PCM_16",)]


@pytest.mark.parametrize(("container", "subtype"), [*KEPT, ("AIFF", "FLOAT"), ("CAF", "ALAC_16"), ("VOC", "PCM_U8")])
def test_a_second_sound_is_never_passed_over_nor_is_its_header_read_as_audio(
    tmp_path: Path, container: str, subtype: str
) -> None:
    whole = written(noise(), format=container, subtype=subtype)
    bare = decode(_file(tmp_path, "bare", whole))[0]
    others = written(noise(), format="FLAC"), written(noise(), format="OGG", subtype="VORBIS")
    for second in (whole, ID3V1 + whole, whole[: len(whole) // 2], *others):
        with pytest.raises(AudioError, match="holds a second sound at byte"):
            length_of(tmp_path, whole + second, "two")
    for harmless in (bytes(9_000), ID3V1, b"junk\x01\xff" * 500):
        np.testing.assert_array_equal(decode(_file(tmp_path, "harmless", whole + harmless))[0], bare)


def test_a_file_that_ends_early_for_a_decoder_gives_no_byte_behind_its_end() -> None:
    file = PatchedFile(io.BytesIO(b"abcdefgh"), {1: b"X", 5: b"YZ"}, 6)
    assert file.read() == b"aXcdeY"
    assert file.seek(-2, io.SEEK_END) == 4
    assert file.read(100) == b"eY"
    for place in (6, 7, 100):
        file.seek(place)
        assert file.read(1) == b""
    whole = PatchedFile(io.BytesIO(b"abcdefgh"), {5: b"YZ"})
    assert whole.read() == b"abcdeYZh"


@pytest.mark.parametrize("container", ["AU", "NIST", "W64"])
def test_much_behind_the_end_that_a_header_states_is_named_with_the_remedy(tmp_path: Path, container: str) -> None:
    whole = written(noise(), format=container)
    with pytest.raises(AudioError, match=r"its audio ends at byte [\d,]+, and 80,000 bytes follow"):
        length_of(tmp_path, whole + b"\x11\x22" * 40_000, "long")


def test_chunks_of_an_aiff_may_stand_behind_its_sound(tmp_path: Path) -> None:
    whole = written(noise(), format="AIFF")
    at = whole.index(b"SSND")
    length = struct.unpack(">I", whole[at + 4 : at + 8])[0]
    moved = whole[:12] + whole[at : at + 8 + length] + whole[12:at]
    np.testing.assert_array_equal(decode(_file(tmp_path, "moved", moved))[0], decode(_file(tmp_path, "a", whole))[0])


def test_audio_behind_the_end_that_a_wav_states_is_named_with_the_remedy(tmp_path: Path) -> None:
    whole = written(noise(), format="WAV")
    at = whole.index(b"data") + 4
    short = whole[:at] + struct.pack("<I", 1_000) + whole[at + 4 :]
    with pytest.raises(AudioError, match=r"bytes that are no chunk follow; where .*ffmpeg -ignore_length 1"):
        length_of(tmp_path, short, "short.wav")
    for harmless in (bytes(200_000), b"junk\x01" * 20, b"LIST\x04\0\0\0abcd" + ID3V1):
        assert length_of(tmp_path, whole + harmless, "harmless.wav") == SECONDS * RATE


def test_a_codec_that_libsndfile_lacks_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yamaha = riff([(b"fmt ", struct.pack("<HHIIHHH", 0x20, 1, RATE, RATE // 2, 1, 4, 0)), (b"data", bytes(4_000))])
    monkeypatch.setattr(audio, "has_av", lambda: False)
    with pytest.raises(AudioError, match=r"cannot be decoded: libsndfile: .*fmt.*; convert it: ffmpeg"):
        length_of(tmp_path, yamaha, "yamaha.wav")


def test_zeros_behind_an_mp3_bring_no_warning_of_mpg123(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = written(noise(), format="MP3")
    assert length_of(tmp_path, whole + bytes(len(whole))) == length_of(tmp_path, whole)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("container", ["MP3", "FLAC", "WAV", "OGG", "AIFF"])
def test_a_resource_fork_that_macos_left_beside_a_file_changes_no_sample(tmp_path: Path, container: str) -> None:
    whole = written(noise(), format=container)
    bare = decode(_file(tmp_path, "bare", whole))[0]
    beside = struct.pack(">II16sHIIIIII", 0x51607, 0x20000, b"Mac OS X", 2, 9, 50, 3_760, 2, 3_810, 286)
    _file(tmp_path, "._song", beside + bytes(4_046))
    np.testing.assert_array_equal(decode(_file(tmp_path, "song", whole))[0], bare)
