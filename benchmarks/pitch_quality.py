"""How well pitch and tempo are moved: struck harmonic notes against the same notes synthesised where they should be.

    python -m benchmarks.pitch_quality [--seeds 0 3]

The vocoder was designed on the notes of seed 0, which are as hard as those of the goals (unmoved 11.4 dB); those of
seed 3 had not been looked at before and say whether what was chosen holds elsewhere.
Log-mel L1 in dB (mean over 64 bands and frames; 80 dB below the loudest is the floor), error of a moved sine in cents,
and the sine over everything that is not it. Peers are the optional extra ``bench``.
"""

import argparse
import json
import math
import platform
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.augment.dsp.phase_vocoder import pitch_time
from trainers.frontends.config import FrontendConfig
from trainers.frontends.frontend import mel_filters

RATE = 22_050
SAMPLES = 59_049
FLOOR_DB = 80.0
SEMITONES = (-4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0)
RATES = (0.8, 0.9, 1.1, 1.25)
RESULTS = Path(__file__).parent / "results"
Mover = Callable[[Tensor, float, float], Tensor]


def struck_notes(ratio: float, tempo: float, *, num_clips: int = 8, seed: int = 0, samples: int = SAMPLES) -> Tensor:
    """Chords of three plucked notes with up to twelve partials, struck again and again: pitch × ratio, at tempo.

    The phases of a strike are those of its beginning, so nothing but pitch and tempo differs between two calls.
    """
    generator = torch.Generator().manual_seed(seed)
    second_T = torch.arange(samples, dtype=torch.float64) / RATE
    clips = []
    for _ in range(num_clips):
        wave_T = torch.zeros(samples, dtype=torch.float64)
        for _ in range(3):
            draw = torch.rand(3, generator=generator, dtype=torch.float64)
            f0_hz = 110 * 2 ** (math.floor(float(draw[0]) * 36) / 12) * ratio
            period_s = 0.4 + 0.4 * float(draw[2])
            since_T = torch.remainder(second_T * tempo + 0.5 * float(draw[1]), period_s)
            attack_T = (since_T / 0.003).clamp(max=1)
            phase = torch.rand(12, generator=generator, dtype=torch.float64) * 2 * math.pi
            for h in range(1, 13):
                if f0_hz * h / ratio < 0.4 * RATE:
                    angle_T = 2 * math.pi * f0_hz * h * since_T / tempo + phase[h - 1]
                    wave_T += attack_T * torch.exp(-4 * since_T) * torch.sin(angle_T) / h**1.2
        clips.append(0.5 * wave_T / wave_T.abs().max())
    return torch.stack(clips).float()


def log_mel_distance(wave_NT: Tensor, target_NT: Tensor) -> float:
    """Mean absolute difference of log-mel spectrograms (64 bands), dB."""
    filters = mel_filters(FrontendConfig(kind="mel", n_fft=2048, num_mels=64), RATE, RATE / 2)

    def mel_db(wave: Tensor) -> Tensor:
        spectrum = torch.stft(wave, 2048, 512, window=torch.hann_window(2048), return_complex=True, pad_mode="constant")
        return 10 * torch.log10((filters @ spectrum.abs().square()).clamp(min=1e-12))

    ours, theirs = mel_db(wave_NT), mel_db(target_NT)
    floor = theirs.amax((1, 2), keepdim=True) - FLOOR_DB
    return float((torch.maximum(ours, floor) - torch.maximum(theirs, floor)).abs().mean())


def sine_error(mover: Mover, semitones: float) -> tuple[float, float]:
    """Cents between a moved sine and its target, and dB of the sine over the rest; the ends are left out."""
    f0_hz, ratio = 440.0, 2 ** (semitones / 12)
    second_T = torch.arange(SAMPLES, dtype=torch.float64) / RATE
    moved_T = mover(torch.sin(2 * math.pi * f0_hz * second_T).float()[None], ratio, 1.0)[0].double()
    inner = slice(RATE // 4, min(len(moved_T), SAMPLES) - RATE // 4)
    wave_T, second_T = moved_T[inner], second_T[inner]
    hz = _frequency(wave_T, f0_hz * ratio)
    basis = torch.stack([torch.sin(2 * math.pi * hz * second_T), torch.cos(2 * math.pi * hz * second_T)], dim=1)
    weight = torch.linalg.lstsq(basis, wave_T[:, None]).solution
    rest = wave_T - (basis @ weight)[:, 0]
    snr_db = 10 * math.log10(float(wave_T.square().sum() / rest.square().sum().clamp(min=1e-30)))
    return 1200 * math.log2(hz / (f0_hz * ratio)), snr_db


def _frequency(wave_T: Tensor, near_hz: float) -> float:
    """Frequency of the sine, by the phase that its two halves differ by against ``near_hz``."""
    half = len(wave_T) // 2
    second = torch.arange(2 * half, dtype=torch.float64) / RATE
    turned = wave_T[: 2 * half] * torch.exp(-2j * math.pi * near_hz * second)
    window = torch.hann_window(half, dtype=torch.float64)
    first, last = (turned[:half] * window).sum(), (turned[half:] * window).sum()
    return near_hz + float(torch.angle(last * first.conj())) / (2 * math.pi * half / RATE)


def ours(n_fft: int) -> Mover:
    def move(wave_NT: Tensor, ratio: float, tempo: float) -> Tensor:
        ratios = torch.full((len(wave_NT),), ratio, dtype=torch.float64)
        tempi = torch.full((len(wave_NT),), tempo, dtype=torch.float64)
        return pitch_time(wave_NT, ratios, tempi, n_fft=n_fft, num_samples=SAMPLES)

    return move


def clip_by_clip(move: Callable[[Any, float, float], Any]) -> Mover:
    def every(wave_NT: Tensor, ratio: float, tempo: float) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(move(row, ratio, tempo)) for row in wave_NT.numpy()])).float()

    return every


def peers() -> dict[str, Mover]:
    effects = import_module("librosa.effects")  # librosa exports it lazily, unseen by the type checker
    import pedalboard
    import python_stretch

    def librosa_moves(row: Any, ratio: float, tempo: float) -> Any:
        if tempo == 1:
            return effects.pitch_shift(row, sr=RATE, n_steps=12 * math.log2(ratio))
        return effects.time_stretch(row, rate=tempo)

    def rubber_band(row: Any, ratio: float, tempo: float) -> Any:
        return pedalboard.time_stretch(row, RATE, tempo, 12 * math.log2(ratio))[0]

    def signalsmith(row: Any, ratio: float, tempo: float) -> Any:
        stretch = python_stretch.Signalsmith.Stretch()
        stretch.preset(1, RATE)
        stretch.setTransposeFactor(ratio)
        stretch.timeFactor = tempo
        return np.asarray(stretch.process(row[None]))[0]

    moves = {"librosa": librosa_moves, "Rubber Band (pedalboard)": rubber_band, "signalsmith": signalsmith}
    return {name: clip_by_clip(move) for name, move in moves.items()}


def measure(name: str, mover: Mover, seed: int) -> dict[str, Any]:
    struck = partial(struck_notes, seed=seed)
    notes, more = struck(1, 1), struck(1, 1, samples=round(1.3 * SAMPLES))
    ratios = [2 ** (semitones / 12) for semitones in SEMITONES]
    pitch = [log_mel_distance(mover(notes, ratio, 1.0), struck(ratio, 1)) for ratio in ratios]
    stretch = [log_mel_distance(_first(mover(more, 1.0, rate)), struck(1, rate)) for rate in RATES]
    sines = [sine_error(mover, semitones) for semitones in (-3.7, -1.0, 2.0, 4.0)]
    row = {
        "seed": seed,
        "who": name,
        "pitch_db": round(mean(pitch), 2),
        "stretch_db": round(mean(stretch), 2),
        "cents": round(max(abs(cents) for cents, _ in sines), 5),
        "sine_snr_db": round(min(snr_db for _, snr_db in sines), 1),
        "length_exact": mover(notes, ratios[0], 1.0).shape[1] == SAMPLES,
    }
    print(row, flush=True)
    return row


def _first(wave_NT: Tensor) -> Tensor:
    return torch.nn.functional.pad(wave_NT, (0, max(0, SAMPLES - wave_NT.shape[1])))[:, :SAMPLES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 3], help="of the notes")
    seeds = parser.parse_args().seeds
    warnings.simplefilter("ignore")  # the peers' own deprecations
    torch.set_num_threads(1)
    movers = {
        "unmoved": lambda wave, *_: wave,
        "counterpoint 1024/256": ours(1024),
        "counterpoint 2048/256": ours(2048),
    }
    with torch.no_grad():
        rows = [measure(name, mover, seed) for seed in seeds for name, mover in (movers | peers()).items()]
    goals = {"training_db": 1.75, "evaluation_db": 1.40, "cents": 0.01}
    report = {"machine": f"cpu, {platform.machine()}", "torch": torch.__version__, "goals": goals, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pitch_quality-cpu-2core.json").write_text(json.dumps(report, indent=1) + "\n")
    head = "# pitch_quality\n\nGoals: ≤ 1.75 dB training, ≤ 1.40 dB evaluation, ≤ 0.01 cent, length exact.\n\n"
    head += "| seed | who | pitch, dB | stretch, dB | cents | sine SNR, dB | length exact |\n" + "|---" * 7 + "|\n"
    lines = ["| " + " | ".join(str(value) for value in row.values()) + " |\n" for row in rows]
    (RESULTS / "pitch_quality-cpu-2core.md").write_text(head + "".join(lines))
    print(RESULTS / "pitch_quality-cpu-2core.md")


if __name__ == "__main__":
    main()
