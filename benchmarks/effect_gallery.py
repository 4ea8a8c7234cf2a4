"""What each effect does to four seconds of notes, as spectrograms before and after: docs/images/augment.png.

python -m benchmarks.effect_gallery [--audio DIR]     with --audio also as WAV files to listen to
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pitch_quality import RATE, struck_notes
from trainers.augment.chain import AugmentChain
from trainers.augment.corruptions import CORRUPTIONS, corrupt
from trainers.augment.parameters import PRESETS, AugmentConfig
from trainers.frontends.config import FrontendConfig
from trainers.frontends.frontend import build_frontend

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "augment.png"
SAMPLES = 3 * RATE
STRONG: dict[str, dict[str, Any]] = {
    "noise": {"min_snr_in_db": 3.0, "max_snr_in_db": 3.0},
    "filter": {},
    "pitch": {"min_transpose_semitones": 4.0},
    "stretch": {"min_rate": 1.3},
    "delay": {"min_delay_ms": 300.0, "max_delay_ms": 300.0, "min_reflections": 3, "min_wet": 1.0},
}


def versions(wave_NT: Tensor) -> dict[str, Tensor]:
    """The clip as it is, after each effect, after the paper's chain, and after each corruption."""
    none, slot = PRESETS["none"], torch.tensor([1])

    def through(config: AugmentConfig) -> Tensor:
        chain = AugmentChain(config, RATE)
        drawn = chain.draw(slot, step=0, seed=0, view=0)
        return chain.apply(wave_NT, drawn, num_samples=SAMPLES)[0]

    waves = {"as it is": wave_NT[0, :SAMPLES]}
    for name, values in STRONG.items():
        waves[name] = through(replace(none, **{name: replace(getattr(none, name), p=1.0, **values)}))
    waves["paper, severity 2"] = through(AugmentConfig())
    waves["paper, severity 4"] = through(AugmentConfig().scaled(4))
    for name in CORRUPTIONS:
        waves[name] = corrupt(name, wave_NT[:, :SAMPLES], slot, sample_rate=RATE, seed=0)[0]
    return waves


def draw(waves: dict[str, Tensor], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    mel = build_frontend(FrontendConfig(kind="mel", num_mels=96, hop=256), RATE)
    figure, axes = pyplot.subplots(3, 5, figsize=(12, 6), sharex=True, sharey=True)
    for axis, (name, wave_T) in zip(axes.flat, waves.items(), strict=True):
        axis.imshow(mel(wave_T[None])[0], origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=11)
        axis.set_title(name, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.supxlabel("3 s", fontsize=9)
    figure.supylabel("mel bands, 0 to 11 kHz", fontsize=9)
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=55)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, help="folder for WAV files")
    arguments = parser.parse_args()
    waves = versions(struck_notes(1, 1, num_clips=1, seed=4, samples=2 * SAMPLES))
    draw(waves, PICTURE)
    print(PICTURE)
    if arguments.audio:
        import soundfile

        arguments.audio.mkdir(parents=True, exist_ok=True)
        for name, wave_T in waves.items():
            path = arguments.audio / f"{name.replace(', ', '-').replace(' ', '-')}.wav"
            soundfile.write(path, (wave_T / wave_T.abs().max().clamp(min=1)).numpy(), RATE)
            print(path)


if __name__ == "__main__":
    main()
