"""One container in another, tags in front of it, one sound behind another: nothing is cut without a word."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_shards.audio import decode as audio
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
