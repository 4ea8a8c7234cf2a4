"""The effects that were drawn for a row, as text."""

from collections.abc import Callable, Sequence
from math import log2, log10

from trainers.augment.drawing import DB_PER_OCTAVE, ViewParameters
from trainers.augment.dsp.spectral import KINDS


def in_words(drawn: ViewParameters, row: int, sample_rate: int, order: Sequence[str]) -> str:
    """The effects of a row in the order in which they were applied.

    >>> import torch
    >>> from trainers.augment.chain import AugmentChain
    >>> from trainers.augment.parameters import PRESETS
    >>> drawn = AugmentChain(PRESETS["paper"], 22_050).draw(torch.arange(8), step=0, seed=0, view=0)
    >>> in_words(drawn, 2, 22_050, PRESETS["paper"].order)
    'polarity turned; band cut 663 to 2,664 Hz'
    """
    got = {name: bool(rows[row]) for name, rows in drawn.received.items()}
    places = [name for stage in order for name in (("pitch", "stretch") if stage == "pitch" else (stage,))]
    parts = [_DESCRIBE[name](drawn, row, sample_rate) for name in ("gain", *places) if got[name]]
    return "; ".join(parts) or "nothing"


def _gain(drawn: ViewParameters, row: int, _: int) -> str:
    gain = float(drawn.gain[row])
    level_db = 20 * log10(abs(gain))
    parts = [f"gain {_signed(level_db)} dB"] * (abs(gain) != 1) + ["polarity turned"] * (gain < 0)
    return "; ".join(parts)


def _noise(drawn: ViewParameters, row: int, _: int) -> str:
    slope_db = float(drawn.noise_slope[row]) * DB_PER_OCTAVE
    return f"noise at {float(drawn.snr_db[row]):.1f} dB SNR, {_signed(slope_db)} dB an octave"


def _filter(drawn: ViewParameters, row: int, _: int) -> str:
    low_hz, high_hz = float(drawn.low_hz[row]), float(drawn.high_hz[row])
    kind = KINDS[int(drawn.filter_kind[row])]
    where = f"at {low_hz:,.0f} Hz" if kind in ("low_pass", "high_pass") else f"{low_hz:,.0f} to {high_hz:,.0f} Hz"
    return f"{kind.replace('_', ' ')} {where}"


def _pitch(drawn: ViewParameters, row: int, _: int) -> str:
    return f"transposed {_signed(12 * log2(float(drawn.pitch_ratio[row])), 2)} semitones"


def _stretch(drawn: ViewParameters, row: int, _: int) -> str:
    return f"tempo × {float(drawn.tempo[row]):.3f}"


def _delay(drawn: ViewParameters, row: int, sample_rate: int) -> str:
    many, wet = int(drawn.reflections[row]), float(drawn.wet[row])
    each_db = 20 * log10(float(drawn.attenuation[row]))
    echoes = f"{many} echo{'es' if many > 1 else ''} of {1000 * int(drawn.delay[row]) / sample_rate:.0f} ms"
    return f"{echoes}, wet {wet:.2f}, {_signed(each_db)} dB a reflection"


def _signed(value: float, digits: int = 1) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


_DESCRIBE: dict[str, Callable[[ViewParameters, int, int], str]] = {
    "gain": _gain,
    "noise": _noise,
    "filter": _filter,
    "pitch": _pitch,
    "stretch": _stretch,
    "delay": _delay,
}
