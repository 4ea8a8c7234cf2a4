"""Decode any audio file to mono int16 at one rate, or name the reason for refusing it (docs/faults.md, 18–28).

Shape suffixes: T samples. 1.0 in float is 32,768 in int16, so a 16-bit file at the right rate keeps every bit.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from cluster.settings import RunError, UserError
from data_shards.audio.chunks import Container
from data_shards.audio.containers import examine, tags_end
from data_shards.audio.pyav import decode_with_av, foreign_format, has_av, no_audio, remedy
from data_shards.format.text import as_text

if TYPE_CHECKING:
    from data_shards.format.records import Audio

MAX_CHANNELS = 16
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
MAX_SAMPLES = 1 << 28
"""Samples of all channels that one file may hold: 50 minutes of 44.1 kHz stereo, 1 GiB as float32."""
BLOCK_FRAMES = 1 << 18
"""Read at once where the length is not known."""
UNCHECKED = ("AVR", "MAT4", "MAT5", "MPC2K", "PAF", "PVF", "SD2", "SDS", "WVE", "XI")
"""Formats of samplers and MATLAB, which libsndfile decodes whether they are whole or cut."""
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
_UNKNOWN_FORMAT, _UNKNOWN_CODEC = (1, 7), (4, 18, 64)
"""Codes of libsndfile: it recognises no format; in one that it knows it lacks the codec."""
MAX_PEAK = 8.0
"""Full scale is 1; lossy decoders overshoot to about 2, a damaged MP3 decodes to 2e5."""


class AudioError(ValueError):
    """The reason why a clip's audio is refused."""


@dataclass(frozen=True)
class FileAudio:
    """Audio of one file below a dataset's folder."""

    root: str
    path: str
    """Relative to `root`."""

    @property
    def name(self) -> str:
        """The path of the file, for messages."""
        return str(Path(self.root) / self.path)

    def read(self) -> tuple[NDArray[np.float32], int]:
        """Decode the whole file: (T, channels) in [-1, 1], and the rate in Hz.
        Raises AudioError if it is missing, empty, not audio, too large, or shorter than its header states.
        """
        return decode(Path(self.root) / self.path)


def audio_file(path: str | Path) -> FileAudio:
    """The audio of one file, for a `Clip`; a relative path is taken from the working directory.

    >>> audio_file("/music/a.wav").name
    '/music/a.wav'
    """
    absolute = Path(path).absolute()  # Ray's workers have other working directories
    return FileAudio(str(absolute.parent), absolute.name)


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """Read from its start to its end: soundfile seeks after each read, which some codecs of libsndfile cannot."""

    def seekable(self) -> bool:
        """Never asked to."""
        return False


@contextmanager
def rejecting(name: str) -> Iterator[None]:
    """Turn any error about one file into an `AudioError`; errors of the machine, a full disk or too many open files,
    are a RunError.
    """
    try:
        yield
    except (AudioError, UserError, RunError):
        raise
    except FileNotFoundError:
        raise AudioError("no such file") from None
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise RunError(f"{as_text(name)}: {error.strerror}") from error
        raise AudioError(f"cannot be read: {error.strerror or error}") from None
    except soundfile.LibsndfileError as error:
        raise AudioError(f"cannot be decoded: {error.error_string}") from None
    except MemoryError as error:
        raise AudioError(f"needs more memory than there is ({error or 'MemoryError'}); cut it") from error
    except Exception as error:  # a decoder's own exception about this file
        raise AudioError(as_text(f"cannot be decoded: {type(error).__name__}: {error}")) from error


def read_mono(audio: "Audio", rate: int) -> NDArray[np.int16]:
    """A clip as mono 16 bits at a rate, (T,): how building, embedding and searching all read.
    Raises AudioError for whatever is wrong with this clip, RunError for a full disk or too many open files.
    """
    with rejecting(audio.name):
        return to_int16(*audio.read(), rate)


def decode(path: Path) -> tuple[NDArray[np.float32], int]:
    """A file to its end, (T, channels) float32, and its rate in Hz; the length that its container states is first
    compared with its size. Raises AudioError with the reason, RunError for a full disk or too many open files.
    """
    with rejecting(str(path)):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # before it is opened: opening a pipe waits for its writer
            raise AudioError(f"is {_kind(status.st_mode)}, not a file")
        if status.st_size == 0:
            raise AudioError("the file is empty")
        with path.open("rb") as file:
            file.seek(tags_end(file))
            head = file.read(64)
            foreign = foreign_format(head)
            if foreign:
                return _decode_foreign(path, foreign)
            container = examine(file)
            if container.problem:
                raise AudioError(container.problem)
            return _decode_parts(path, container, head)


def _decode_foreign(path: Path, foreign: str) -> tuple[NDArray[np.float32], int]:
    if not has_av():
        raise AudioError(f"is {foreign}, which libsndfile does not decode; {remedy()}")
    try:
        wave, rate = decode_with_av(path, MAX_SAMPLES)
    except ValueError as error:
        raise AudioError(f"is {foreign}; {error}") from None
    check_form(len(wave), wave.shape[1], rate)
    return wave, rate


def _decode_parts(path: Path, container: Container, head: bytes) -> tuple[NDArray[np.float32], int]:
    waves: list[NDArray[np.float32]] = []
    rates: set[int] = set()
    for part in container.parts or (os.fsencode(path),):  # soundfile takes no name that is not UTF-8 as text
        try:
            opened = _Forward(part)
        except soundfile.LibsndfileError as error:
            if error.code in _UNKNOWN_CODEC and has_av():
                return _decode_foreign(path, "of a codec that libsndfile lacks")
            raise AudioError(f"cannot be decoded: {_unopened(error, head)}") from None
        with opened as file:
            if file.format in UNCHECKED:
                raise AudioError(f"is {file.format_info}, in which a cut cannot be found; convert it to FLAC or WAV")
            waves.append(_read_all(file, container))
            rates.add(file.samplerate)
    forms = {wave.shape[1] for wave in waves}
    if len(rates) > 1 or len(forms) > 1:
        raise AudioError("streams of several rates or numbers of channels follow each other in it; split it")
    wave = waves[0] if len(waves) == 1 else np.concatenate(waves)
    check_form(len(wave), wave.shape[1], *rates)
    if len(wave) < container.least_frames:
        raise AudioError(f"{len(wave):,} of at least {container.least_frames:,} samples can be decoded: damaged")
    return wave, rates.pop()


def _read_all(file: "_Forward", container: Container) -> NDArray[np.float32]:
    """All samples (T, channels) of an open file."""
    if container.states_length:
        check_form(file.frames, file.channels, file.samplerate)
        wave: NDArray[np.float32] = file.read(file.frames, dtype="float32", always_2d=True)
        if len(wave) < file.frames - container.slack:
            raise AudioError(f"truncated: {len(wave):,} of the {file.frames:,} samples that its header promises")
        return wave
    check_form(1, file.channels, file.samplerate)
    blocks, count = [], 0
    while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        blocks.append(block.copy())  # a short one is a view of a whole block
        count += block.size
        if count > MAX_SAMPLES:
            raise AudioError(f"holds more than {MAX_SAMPLES:,} samples; cut it")
    return np.concatenate(blocks) if blocks else np.empty((0, file.channels), np.float32)


def _unopened(error: soundfile.LibsndfileError, head: bytes) -> str:
    """Why libsndfile does not open a file; libsndfile reports an unknown format as a missing file."""
    kind = no_audio(head)
    if kind:
        return f"this is {kind}"
    if error.code in _UNKNOWN_FORMAT:
        return f"libsndfile reads no format that begins with {head[:16]!r}; {remedy()}"
    return f"libsndfile: {error.error_string.removesuffix('.')}; {remedy()}"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def check_form(frames: int, channels: int, rate: int) -> None:
    """Refuse, by an AudioError, a length, a number of channels or a rate that cannot be music, before anything is
    allocated.
    """
    if frames <= 0:
        raise AudioError("holds no samples")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{channels} channels; at most {MAX_CHANNELS}")
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise AudioError(f"a sample rate of {rate:,} Hz; it must be {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,}")
    if frames * channels > MAX_SAMPLES:
        raise AudioError(
            f"its header promises {frames:,} frames of {channels} channels; cut it below {MAX_SAMPLES:,} samples"
        )


def to_int16(wave: NDArray[np.float32], rate: int, target_rate: int) -> NDArray[np.int16]:
    """Downmix by the mean, resample, round to 16 bits.

    Args:
        wave: (T,) or (T, channels), 1.0 is full scale; what lies a little beyond is clipped.
        rate: of `wave`, Hz.
        target_rate: Hz.

    Returns:
        (T',) int16.

    Raises:
        AudioError: for the form, NaN or Inf, or a peak far over full scale.
    """
    if wave.ndim not in (1, 2):
        raise AudioError(f"an array of {wave.ndim} dimensions; audio has one, or two with channels last")
    check_form(len(wave), wave.shape[1] if wave.ndim == 2 else 1, rate)
    peak = float(np.abs(wave).max())  # NaN wins every comparison of max, so one pass finds NaN, Inf and excess
    if not np.isfinite(peak):
        raise AudioError("holds NaN or Inf")
    if peak > MAX_PEAK:
        raise AudioError(f"a peak of {peak:.3g} where full scale is 1: damaged or not normalised")
    mono_T = wave.mean(axis=1, dtype=np.float32) if wave.ndim == 2 else wave
    if rate != target_rate:
        mono_T = soxr.resample(np.ascontiguousarray(mono_T, dtype=np.float32), rate, target_rate, quality="HQ")
    if len(mono_T) == 0:
        raise AudioError(f"shorter than one sample at {target_rate:,} Hz")
    scaled_T = np.rint(mono_T * np.float32(32_768))
    quantised_T: NDArray[np.int16] = np.clip(scaled_T, -32_768, 32_767).astype(np.int16)
    return quantised_T
