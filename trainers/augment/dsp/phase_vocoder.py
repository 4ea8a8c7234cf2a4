"""Pitch and tempo in one phase-vocoder pass: stretch by r/v, then read with stride r.

Output sample t is input position t·v; synthesis frame j lies at j·hop of the stretched signal, which is input
position j·hop·v/r. Phases are int32 in turns of 2^32: their differences and sums along frames wrap as angles do, and
nothing is ever unwrapped. Identity phase locking (Laroche & Dolson 1999) in parallel: every bin turns with the
nearest peak of the frame it is taken from, so the phases between the bins of a partial stay as they were played.

Shape suffixes: n rows, T samples, F analysis frames, J synthesis frames, K bins.
"""

from functools import lru_cache
from itertools import pairwise
from math import ceil, pi

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from trainers.augment.dsp.resampling import FINE_FRAME, read_spline, spline_degree
from trainers.augment.dsp.resampling import SPLINE_REACH as _SPLINE_REACH

_HALF_TURN = 2.0**31 - 256
"""A turn is 2^32, so that sums of int32 wrap where angles do; a little less keeps π inside."""
_UNIT_POINTS = 1 << 16
"""Phases are rounded to this many a turn when numbers are made of them: noise at −91 dB."""
_A_BIN = 1 << 17
"""A bin of distance above the 16 bits of a turn; the bit between decides between left and right."""
_BESIDE = -(1 << 23)
"""What a bin is less that is no peak: more than the 31 bins that a peak is looked for."""
_PEAK_REACH = 2
"""A peak is no lower than this many bins to both sides."""
_SHIFTS = (1, 2, 4, 8, 16)
"""Running maxima by doubling: a peak is looked for up to 31 bins away."""
_SCAN_BLOCK = 16


def pitch_time(
    wave: Tensor,
    pitch_ratio: Tensor,
    tempo: Tensor,
    *,
    n_fft: int = 1024,
    hop: int = 256,
    num_samples: int | None = None,
) -> Tensor:
    """Move each row's pitch and tempo by its own ratios.

    Args:
        wave: shape (N, T), float; where less is there than ``num_samples · tempo``, the row ends in silence.
        pitch_ratio: > 0, shape (N,); 2 ** (semitones / 12).
        tempo: > 0, shape (N,); 1.25 is a quarter faster.
        n_fft: frame length, samples; from 2,048 on (evaluation) phases are settled once and the result is read by six
            taps, below by four.
        hop: between frames, samples; divides ``n_fft``, at most a quarter of it.
        num_samples: length of the result; T if None.

    Returns:
        Shape (N, num_samples). A change of 1e-7 in the input moves it to about 42 dB of signal over difference. Its
        gradient is that of the linear map that the phases of this wave define.

    Raises:
        ValueError: if ``hop`` does not fit ``n_fft``, or the shapes disagree.

    Source: Laroche & Dolson, "Improved phase vocoder time-scale modification of audio", 1999.
    """
    N, T = wave.shape
    if n_fft % hop or hop * 4 > n_fft:
        raise ValueError(f"hop must divide n_fft and be at most a quarter of it, got {hop} and {n_fft}")
    if pitch_ratio.shape != (N,) or tempo.shape != (N,):
        raise ValueError(f"pitch_ratio and tempo must be ({N},), got {tuple(pitch_ratio.shape)}, {tuple(tempo.shape)}")
    num_samples = T if num_samples is None else num_samples
    if N == 0:
        return wave.new_zeros(0, num_samples)
    longest = float(pitch_ratio.max())  # parameters on the host cost the device no wait
    ratio_n, tempo_n = (values.to(wave.device, torch.float64, non_blocking=True) for values in (pitch_ratio, tempo))
    window = torch.hann_window(n_fft, device=wave.device, dtype=wave.dtype)
    num_frames = ceil((num_samples * longest + _SPLINE_REACH) / hop) + 2
    moved_nJK = _synthesis_frames(_analysed(wave, window, hop), tempo_n / ratio_n, num_frames)
    degree = spline_degree(n_fft)
    moved_nJK = moved_nJK.mul_(_weights(ratio_n, n_fft, degree, moved_nJK.dtype)[:, None])
    if n_fft >= FINE_FRAME:
        moved_nJK = _settled(moved_nJK, window, hop)
    stretched_nL = _overlap_add(torch.fft.irfft(moved_nJK, n_fft), window, hop)
    return read_spline(stretched_nL[:, n_fft // 2 - _SPLINE_REACH :], ratio_n, num_samples, degree=degree)


def _analysed(wave: Tensor, window: Tensor, hop: int) -> Tensor:
    """Spectra of the frames centred on multiples of the hop, shape (n, F, K)."""
    n_fft = len(window)
    # Two whole frames of silence behind: where the input has ended, its last sound must not be held.
    windowed = pad(wave, (n_fft // 2, 2 * n_fft)).unfold(-1, n_fft, hop) * window
    spectrum_nFK: Tensor = torch.fft.rfft(windowed)
    return spectrum_nFK


def _synthesis_frames(spectrum_nFK: Tensor, step_n: Tensor, num_frames: int) -> Tensor:
    """Frames of the stretched signal: the nearest analysis frame, turned to where the phases have advanced to."""
    n, F, _ = spectrum_nFK.shape
    place_nJ = torch.arange(num_frames, device=step_n.device, dtype=torch.float64) * step_n[:, None]
    row_n1 = torch.arange(n, device=step_n.device)[:, None] * F
    below_nJ = place_nJ.long().clamp(max=F - 2)
    # Frame 0 begins with its own phases, which `_advances` keeps in the last place.
    below_nJ = torch.cat([below_nJ.new_full((n, 1), F - 1), below_nJ[:, :-1]], dim=1)
    nearest = (row_n1 + (place_nJ + 0.5).long().clamp(max=F - 1)).flatten()
    # How phases advance has no useful gradient (that of a bin of power 0 is infinite): it is a constant to autograd.
    with torch.no_grad():
        turn_nJK = _turns(spectrum_nFK, (row_n1 + below_nJ).flatten(), nearest)
    return _frames(spectrum_nFK, nearest).mul_(turn_nJK)


def _frames(of_nFK: Tensor, frame: Tensor) -> Tensor:
    """The frames with these numbers, counted through all rows, shape (n, J, K)."""
    n, _, K = of_nFK.shape
    return of_nFK.flatten(0, 1).index_select(0, frame).view(n, -1, K)


def _turns(spectrum_nFK: Tensor, below: Tensor, nearest: Tensor) -> Tensor:
    """What each bin of the nearest frames is to be multiplied by, of modulus 1, shape (n, J, K).

    In place as far as it goes: fresh memory costs more than the arithmetic.
    """
    phase_nFK, beside_nFK = _phases_and_peaks(spectrum_nFK)
    turn_nJK = _frames(_advances(phase_nFK), below)
    _running_sum_(turn_nJK)
    turn_nJK -= _frames(phase_nFK, nearest)
    turn_nJK >>= 16
    turn_nJK.add_(_frames(beside_nFK, nearest), alpha=_BESIDE)
    del phase_nFK, beside_nFK
    index_nJK = _of_nearest_peak(turn_nJK)
    return _unit_circle(spectrum_nFK.device).index_select(0, index_nJK.flatten()).view_as(index_nJK)


def _phases_and_peaks(spectrum_nFK: Tensor) -> tuple[Tensor, Tensor]:
    """Phases in turns of 2^32, and 0 at peaks and 1 elsewhere; int32."""
    real_nFK, imag_nFK = spectrum_nFK.real.float().contiguous(), spectrum_nFK.imag.float().contiguous()
    power_nFK = (real_nFK * real_nFK).addcmul_(imag_nFK, imag_nFK)
    phase_nFK = torch.atan2(imag_nFK, real_nFK, out=imag_nFK).mul_(_HALF_TURN / pi).to(torch.int32)
    highest_nFK = max_pool1d(power_nFK, 2 * _PEAK_REACH + 1, 1, _PEAK_REACH)
    # Positive floats are ordered like their bits.
    return phase_nFK, highest_nFK.view(torch.int32).sub_(power_nFK.view(torch.int32)).clamp_(max=1)


def _advances(phase_nFK: Tensor) -> Tensor:
    """From each frame to the next; in the last place the phases of the first."""
    advance_nFK = torch.empty_like(phase_nFK)
    torch.sub(phase_nFK[:, 1:], phase_nFK[:, :-1], out=advance_nFK[:, :-1])
    advance_nFK[:, -1] = phase_nFK[:, 0]
    return advance_nFK


def _running_sum_(advance_nJK: Tensor) -> None:
    """Cumulative sum along frames, in place, in two levels: √J steps of whole slices, not a scan of stride K."""
    n, J, K = advance_nJK.shape
    whole = J - J % _SCAN_BLOCK
    block_nbjK = advance_nJK[:, :whole].view(n, whole // _SCAN_BLOCK, _SCAN_BLOCK, K)
    steps = block_nbjK.unbind(2)
    for before, step in pairwise(steps):
        step += before
    for before, block in pairwise(block_nbjK.unbind(1)):
        block += before[:, -1:]
    rest = advance_nJK[:, max(whole - 1, 0) :].unbind(1)
    for before, step in pairwise(rest):
        step += before


def _of_nearest_peak(turn_nJK: Tensor) -> Tensor:
    """The turn of the nearest peak within reach (of the bin itself where there is none), int32 in [0, 2^16).

    Args:
        turn_nJK: 16 bits of a turn, ``_BESIDE`` less where no peak is, int32.

    The distance travels above the turn's bits, so that maxima over shifted bins find the nearest peak and bring its
    turn along: on a CPU comparisons, scans, gathers and `torch.where` take several times as long.
    """
    place_K = torch.arange(turn_nJK.shape[-1], device=turn_nJK.device, dtype=torch.int32) * _A_BIN
    left_nJK, right_nJK = turn_nJK + place_K, turn_nJK.sub_(place_K)
    spare_nJK = torch.empty_like(turn_nJK)
    for by in _SHIFTS:
        spare_nJK[..., :by] = left_nJK[..., :by]
        torch.maximum(left_nJK[..., by:], left_nJK[..., :-by], out=spare_nJK[..., by:])
        left_nJK, spare_nJK = spare_nJK, left_nJK
    for by in _SHIFTS:
        spare_nJK[..., -by:] = right_nJK[..., -by:]
        torch.maximum(right_nJK[..., :-by], right_nJK[..., by:], out=spare_nJK[..., :-by])
        right_nJK, spare_nJK = spare_nJK, right_nJK
    left_nJK += _A_BIN // 2 - place_K  # of two peaks equally near the left one
    right_nJK += place_K
    return torch.maximum(left_nJK, right_nJK, out=spare_nJK).bitwise_and_(_UNIT_POINTS - 1)


@lru_cache(maxsize=8)
def _unit_circle(device: torch.device) -> Tensor:
    """exp(2πi·(k + ½)/2^16), complex64: the half undoes that shifted bits were rounded down."""
    angle = (torch.arange(_UNIT_POINTS, device=device, dtype=torch.float64) + 0.5) * (2 * pi / _UNIT_POINTS)
    return torch.complex(angle.cos().float(), angle.sin().float())


def _settled(moved_nJK: Tensor, window: Tensor, hop: int) -> Tensor:
    """Frames with their own moduli and the phases of what they add up to: after an onset they cancel each other less.

    Source: Griffin & Lim, "Signal estimation from modified short-time Fourier transform", 1984; one step.
    """
    n_fft = len(window)
    with torch.no_grad():
        heard_nL = _overlap_add(torch.fft.irfft(moved_nJK, n_fft), window, hop)
        turn_nJK: Tensor = torch.fft.rfft(heard_nL.unfold(-1, n_fft, hop) * window)
        turn_nJK.mul_(moved_nJK.conj()).sgn_()
    return moved_nJK * turn_nJK


def _weights(ratio_n: Tensor, n_fft: int, degree: int, dtype: torch.dtype) -> Tensor:
    """Real factor of each bin, (n, K): 0 above what reading maps to Nyquist, else 1/sinc^(d + 1) for the spline."""
    K = n_fft // 2 + 1
    bin_K = torch.arange(K, device=ratio_n.device, dtype=torch.float64)
    kept_nK = bin_K <= ((K - 1) / ratio_n.clamp(min=1))[:, None]
    return (kept_nK * torch.sinc(bin_K / n_fft) ** -(degree + 1)).to(dtype)


def _overlap_add(frames_nJt: Tensor, window: Tensor, hop: int) -> Tensor:
    """Windowed frames over the sum of squared windows, from half a frame before the first centre."""
    n, J, n_fft = frames_nJt.shape
    overlap = n_fft // hop
    total = frames_nJt.new_zeros(n, J + overlap - 1, hop)
    weight = frames_nJt.new_zeros(J + overlap - 1, hop)
    for part, frame_part in enumerate(frames_nJt.view(n, J, overlap, hop).unbind(2)):
        window_part = window[part * hop : (part + 1) * hop]
        total[:, part : part + J].addcmul_(frame_part, window_part)
        weight[part : part + J] += window_part.square()
    return total.div_(weight.clamp_(min=1e-3)).flatten(1)
