"""One file that fails, however it fails, is rejected, named and counted; nothing else is lost."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.settings import RunError, UserError
from data_shards.audio import decode as audio
from data_shards.audio import pyav
from data_shards.audio.decode import AudioError, FileAudio, decode
from data_shards.build.build import BuildConfig, build
from data_shards.format.index import read_index
from data_shards.format.records import Clip
from data_shards.sources.folder import read_folder
from evaluation.embeddings.files import embed_files
from evaluation.encoders.encoder import ENCODER
from evaluation.encoders.pool import Pool
from evaluation.search import index_update
from evaluation.search.query import search

RATE = 22_050
UNSEEKABLE = [
    ("wav", "GSM610"),
    ("wav", "G721_32"),
    ("wav", "NMS_ADPCM_16"),
    ("wav", "NMS_ADPCM_32"),
    ("au", "G721_32"),
    ("au", "G723_24"),
    ("aiff", "DWVW_16"),
    ("aiff", "GSM610"),
    ("w64", "GSM610"),
]
LENIENT = BuildConfig(workers=1, max_rejected=1.0)


class Level:
    """Embeds a chunk by its loudness and its zero crossings."""

    width, rate, samples, hash = 2, RATE, 4_410, "level"

    def __call__(self, wave_NT: Tensor, /) -> Tensor:
        return torch.stack([wave_NT.abs().amax(1), (wave_NT[:, 1:] * wave_NT[:, :-1] < 0).float().mean(1)], 1)


def tone(path: Path, hz: float = 440.0, **how: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hz * np.arange(RATE) / RATE), RATE, **how)
    return path


@pytest.fixture
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tones."""
    monkeypatch.setattr(index_update, "INDEXES", tmp_path / "indexes")
    for number in range(3):
        tone(tmp_path / "music" / f"{number}.wav", 300.0 * (1 + number))
    return tmp_path / "music"


@pytest.mark.parametrize(("suffix", "subtype"), UNSEEKABLE)
def test_what_libsndfile_cannot_seek_is_read_from_its_start(tmp_path: Path, suffix: str, subtype: str) -> None:
    wave, rate = decode(tone(tmp_path / f"voice.{suffix}", subtype=subtype))
    assert rate == RATE
    assert RATE <= len(wave) <= RATE + 500
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert np.corrcoef(wave[:RATE, 0], expected)[0, 1] > 0.9


# --- in one place ---


@dataclass(frozen=True)
class FailingAudio:
    """Raises what it is given."""

    error: BaseException
    name: str = "songs/failing.mp3"

    def read(self) -> tuple[NDArray[np.float32], int]:
        raise self.error


UNFORESEEN = [
    (ZeroDivisionError("by zero"), "cannot be decoded: ZeroDivisionError: by zero"),
    (MemoryError(), "needs more memory than there is"),
    (np.exceptions.AxisError("no axis"), "cannot be decoded: AxisError"),
    (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
    (FileNotFoundError(2, "No such file or directory"), "no such file"),
    (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
    (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates"), "cannot be decoded: UnicodeEncodeError"),
    (RecursionError("too deep"), "cannot be decoded: RecursionError"),
]


@pytest.mark.parametrize(("error", "why"), UNFORESEEN, ids=lambda value: type(value).__name__)
def test_any_exception_about_a_clip_rejects_that_clip(music: Path, tmp_path: Path, error: Exception, why: str) -> None:
    clips = [*read_folder(music).clips, Clip(key="failing", audio=FailingAudio(error), track="t")]
    summary = build(clips, tmp_path / "set", LENIENT)
    assert summary.clips == 3
    (rejected,) = summary.rejected
    assert (rejected.key, rejected.name) == ("failing", "songs/failing.mp3")
    assert rejected.why.startswith(why)


@pytest.mark.parametrize(("error", "why"), UNFORESEEN, ids=lambda value: type(value).__name__)
def test_any_exception_about_a_file_leaves_the_other_files_embedded_and_found(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def failing(path: Path) -> tuple[NDArray[np.float32], int]:
        if path.name == "1.wav":
            raise error
        return decode(path)

    monkeypatch.setattr(audio, "decode", failing)
    files = sorted(music.iterdir())
    made = embed_files(Level(), files, tmp_path / "e.parquet", skip_unreadable=True)
    assert pq.read_table(made.path)["path"].to_pylist() == [str(files[0]), str(files[2])]
    assert made.rejected[str(files[1])].startswith(why)
    with pytest.raises(UserError, match=r"1\.wav: "):
        embed_files(Level(), files, tmp_path / "f.parquet")
    found = search(Pool({ENCODER: Level()}), music, [files[0]], k=3)
    assert [Path(hit.path).name for hit in found.answers[0].nearest] == ["2.wav"]
    assert [(track.path, reason.startswith(why)) for track, reason in found.index.rejected] == [("1.wav", True)]


@pytest.mark.parametrize("number", [28, 24, 23], ids=["disk full", "files open", "files open everywhere"])
def test_what_is_wrong_with_the_machine_rejects_no_clip(music: Path, tmp_path: Path, number: int) -> None:
    error = OSError(number, os.strerror(number))
    clips = [*read_folder(music).clips, Clip(key="failing", audio=FailingAudio(error), track="t")]
    with pytest.raises(RunError, match=rf"songs/failing\.mp3: {os.strerror(number)}"):
        build(clips, tmp_path / "set", LENIENT)


# --- what is no file ---


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_pipe, "is a pipe, not a file"),
        (make_socket, "is a socket, not a file"),
        (Path.mkdir, "is a folder, not a file"),
        (lambda path: path.symlink_to("/dev/null"), "is a device, not a file"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic links"),
    ],
    ids=["pipe", "socket", "folder", "device", "broken link", "link to itself"],
)
def test_what_is_no_file_is_named_and_never_waited_for(
    music: Path, tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    make(music / "x.wav")
    clips = [
        Clip(key=f"c{i}", audio=FileAudio(str(music), name), track="t") for i, name in enumerate(["0.wav", "x.wav"])
    ]
    assert build(clips, tmp_path / "set", LENIENT).rejected[0].why == why
    files = [music / "0.wav", music / "x.wav"]
    if files[1].is_dir():  # a folder stands for the audio below it
        with pytest.raises(UserError, match=r"x\.wav: no audio files below it"):
            embed_files(Level(), files, tmp_path / "e.parquet", skip_unreadable=True)
    else:
        made = embed_files(Level(), files, tmp_path / "e.parquet", skip_unreadable=True)
        assert made.rejected == {str(files[1]): why}
    found = search(Pool({ENCODER: Level()}), music, [music / "0.wav"], k=9)
    assert len(found.index) == 3
    assert len(read_folder(music).clips) == 3


def test_a_file_that_vanishes_after_the_scan_is_rejected_or_gone(music: Path, tmp_path: Path) -> None:
    listing = read_folder(music)
    (music / "1.wav").unlink()
    assert [one.why for one in build(listing.clips, tmp_path / "set", LENIENT).rejected] == ["no such file"]


# --- names that no encoding holds ---


def test_a_name_that_is_not_utf8_is_read_and_shown_as_text(music: Path, tmp_path: Path) -> None:
    odd = music / os.fsdecode(b"caf\xe9") / os.fsdecode(b"\xff.wav")
    odd.parent.mkdir()
    tone(tmp_path / "odd.wav", 1_000).rename(odd)
    summary = build(read_folder(music).clips, tmp_path / "set", LENIENT)
    assert summary.clips == 4
    assert "caf\\xe9/\\xff.wav" in read_index(tmp_path / "set").track
    made = embed_files(Level(), [odd], tmp_path / "e.parquet")
    assert pq.read_table(made.path)["path"].to_pylist() == [f"{music}/caf\\xe9/\\xff.wav"]
    pool = Pool({ENCODER: Level()})
    found = search(pool, music, [odd], k=9, leave_out="nothing")
    assert f"{music}/caf\\xe9/\\xff.wav" in [hit.path for hit in found.answers[0].nearest]
    assert len(search(pool, music, [odd], k=9).answers[0].nearest) == 3
    str(found.answers).encode()


def test_a_broken_file_whose_name_is_not_utf8_is_rejected_as_text(music: Path, tmp_path: Path) -> None:
    odd = music / os.fsdecode(b"caf\xe9.wav")
    odd.write_bytes(b"no audio")
    name = f"{music}/caf\\xe9.wav"
    assert [one.name for one in build(read_folder(music).clips, tmp_path / "set", LENIENT).rejected] == [name]
    rejected = embed_files(Level(), [music / "0.wav", odd], tmp_path / "e.parquet", skip_unreadable=True).rejected
    assert list(rejected) == [name]
    found = search(Pool({ENCODER: Level()}), music, [music / "0.wav"], k=1)
    assert [track.path for track, _ in found.index.rejected] == ["caf\\xe9.wav"]


# --- what libsndfile does not decode ---

MP4 = b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(4_000)
ADTS = (b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(9)) * 100


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (MP4, r"MP4 \(AAC or ALAC\)"),
        (ADTS, "AAC"),
        (b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + ADTS, "AAC"),
        (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(500), r"ASF \(WMA\)"),
        (b"\x1a\x45\xdf\xa3" + bytes(500), "Matroska or WebM"),
        (b"MAC \x96\x0f" + bytes(500), "Monkey's Audio"),
        (b"wvpk" + bytes(500), "WavPack"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(500), "RIFF AVI"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("name", ["song.mp3", "song.wav", "song.m4a"])
def test_other_formats_are_named_by_their_content_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, kind: str, name: str
) -> None:
    monkeypatch.setattr(audio, "has_av", lambda: False)
    monkeypatch.setattr(pyav, "has_av", lambda: False)
    (tmp_path / name).write_bytes(content)
    remedy = r"convert it: ffmpeg -i FILE FILE\.flac, or read such files as they are: pip install"
    with pytest.raises(AudioError, match=rf"\Ais {kind}, which libsndfile does not decode; {remedy}"):
        decode(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"<!DOCTYPE html><html>404", "HTML"), (b"%PDF-1.7", "PDF"), (b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG image"),
     (b"MThd\0\0\0\x06", "MIDI"), (b"Once upon a time", "begins with b'Once upon a time'")],
)  # fmt: skip
def test_what_is_no_audio_is_never_reported_as_missing(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "song.mp3").write_bytes(content)
    with pytest.raises(AudioError, match=rf"cannot be decoded: .*{what}") as caught:
        decode(tmp_path / "song.mp3")
    assert "exist" not in str(caught.value)


def test_pyav_reads_aac_where_it_is_installed(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    wave = (0.5 * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)).astype(np.float32)
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        for start in range(0, len(wave), 1_024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1_024], format="fltp", layout="mono")
            frame.rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found, rate = decode(path.rename(tmp_path / "song.mp3"))
    assert rate == RATE
    assert len(found) == pytest.approx(len(wave), abs=2_200)
    assert np.abs(np.fft.rfft(found[RATE : 2 * RATE, 0])).argmax() == 440
    whole = (tmp_path / "song.mp3").read_bytes()
    (tmp_path / "song.mp3").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match="is MP4"):
        decode(tmp_path / "song.mp3")
