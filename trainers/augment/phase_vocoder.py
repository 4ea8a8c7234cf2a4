"""Pitch and tempo in one phase-vocoder pass: stretch by r/v, then read with stride r.

Output sample t is input position t·v; synthesis frame j lies at j·hop of the stretched signal, which is input
position j·hop·v/r. A frame's phases advance by unit(X[i+1]·conj X[i]): products of unit numbers along frames, no
angle is ever taken or unwrapped. Identity phase locking (Laroche & Dolson 1999) in parallel: every bin turns with
the nearest peak of the frame it is taken from, so the phases between the bins of a partial stay as they were
played.

Shape suffixes: n rows, T samples, F analysis frames, J synthesis frames, K bins.
"""

from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from trainers.augment.resampling import SPLINE_REACH as _SPLINE_REACH
from trainers.augment.resampling import read_spline, spline_degree

_TINY = 1e-18
"""Modulus under which a number has no phase of its own."""
_PEAK_REACH = 2
"""A peak is no lower than this many bins to both sides."""
_SHIFTS = (1, 2, 4, 8, 16)
"""Running maxima by doubling: a peak is looked for up to 31 bins away."""
_FAR_BIT = 13
_FAR = 1 << _FAR_BIT
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
        n_fft: frame length, samples; from 2,048 on (evaluation) a spline of six taps reads the result, else four.
        hop: between frames, samples; divides ``n_fft``, at most a quarter of it.
        num_samples: length of the result; T if None.

    Returns:
        Shape (N, num_samples). A change of 1e-7 in the input moves it to about 42 dB of signal over difference. Its
        gradient is that of the linear map that the phases of this wave define.

    Raises:
        ValueError: if ``hop`` does not fit ``n_fft``, or the shapes disagree.

    Source: SCIENCE §2; Laroche & Dolson, "Improved phase vocoder time-scale modification of audio", 1999.
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
    num_frames = -(-num_frames // _SCAN_BLOCK) * _SCAN_BLOCK
    # Two whole frames of silence behind: where the input has ended, its last sound must not be held.
    windowed = pad(wave, (n_fft // 2, 2 * n_fft)).unfold(-1, n_fft, hop) * window
    moved_nJK = _synthesis_frames(torch.fft.rfft(windowed), tempo_n / ratio_n, num_frames)
    degree = spline_degree(n_fft)
    moved_nJK = moved_nJK * _weights(ratio_n, n_fft, degree, wave.dtype)[:, None]
    stretched_nL = _overlap_add(torch.fft.irfft(moved_nJK, n_fft), window, hop)
    return read_spline(stretched_nL, ratio_n, num_samples, degree=degree)


def _synthesis_frames(spectrum_nFK: Tensor, step_n: Tensor, num_frames: int) -> Tensor:
    """Frames of the stretched signal: the nearest analysis frame, turned to where the phases have advanced to."""
    n, F, K = spectrum_nFK.shape
    place_nJ = torch.arange(num_frames, device=step_n.device, dtype=torch.float64) * step_n[:, None]
    row_n1 = torch.arange(n, device=step_n.device)[:, None] * F
    below_nJ = place_nJ.long().clamp(max=F - 2)
    # Frame 0 begins with its own phases, which `_turns` keeps in the last place of the advances.
    below_nJ = torch.cat([below_nJ.new_full((n, 1), F - 1), below_nJ[:, :-1]], dim=1)
    nearest = (row_n1 + (place_nJ + 0.5).long().clamp(max=F - 1)).flatten()
    # How phases advance has no useful gradient (that of a silent bin is infinite): it is a constant to autograd.
    turn_nJK = _turns(spectrum_nFK.detach(), (row_n1 + below_nJ).flatten(), nearest)
    return spectrum_nFK.flatten(0, 1).index_select(0, nearest).view(n, num_frames, K) * turn_nJK


def _turns(spectrum_nFK: Tensor, below: Tensor, nearest: Tensor) -> Tensor:
    """What each bin of the nearest frames is to be multiplied by, of modulus 1, shape (n, J, K).

    In place as far as it goes: fresh memory costs more than the arithmetic.
    """
    n, F, K = spectrum_nFK.shape
    unit_nFK = _unit(spectrum_nFK)
    advance_nFK = unit_nFK.roll(-1, 1).mul_(unit_nFK.conj())
    advance_nFK[:, F - 1] = unit_nFK[:, 0]
    phase_nJK = advance_nFK.flatten(0, 1).index_select(0, below).view(n, -1, K)
    del advance_nFK
    turn_nJK = unit_nFK.flatten(0, 1).index_select(0, nearest).view(n, -1, K).conj_physical_()
    del unit_nFK
    turn_nJK *= _running_product_(phase_nJK)
    del phase_nJK
    owner_nJK = _peak_owner(spectrum_nFK).flatten(0, 1).index_select(0, nearest).view(n, -1, K)
    return turn_nJK.gather(-1, owner_nJK)


def _unit(number: Tensor) -> Tensor:
    """A complex number over its modulus, and 1 for 0: a silent bin's phase must not silence it for ever."""
    number = number + _TINY
    square = torch.view_as_real(number).square()
    return number.mul_((square[..., 0] + square[..., 1]).rsqrt_())


def _running_product_(factor_nJK: Tensor) -> Tensor:
    """Cumulative product along frames, in place, in two levels: √J steps of whole slices, not a scan of stride K."""
    n, J, K = factor_nJK.shape
    block_nbjK = factor_nJK.view(n, J // _SCAN_BLOCK, _SCAN_BLOCK, K)
    for j in range(1, _SCAN_BLOCK):
        block_nbjK[:, :, j] *= block_nbjK[:, :, j - 1]
    for b in range(1, J // _SCAN_BLOCK):
        block_nbjK[:, b] *= block_nbjK[:, b - 1, -1:].clone()
    return factor_nJK


def _peak_owner(spectrum_nFK: Tensor) -> Tensor:
    """Bin of the nearest peak (the bin itself where none is within reach), int64.

    Small integers and shifted maxima: on a CPU comparisons, scans and `torch.where` take several times as long.
    """
    square = torch.view_as_real(spectrum_nFK).square()
    power_nFK = (square[..., 0] + square[..., 1]).float()
    highest_nFK = max_pool1d(power_nFK, 2 * _PEAK_REACH + 1, 1, _PEAK_REACH)
    # Positive floats are ordered like their bits: 0 at a peak, negative elsewhere.
    below_peak_nFK = (power_nFK.view(torch.int32) - highest_nFK.view(torch.int32)).clamp(min=-1).to(torch.int16)
    bin_K = torch.arange(power_nFK.shape[-1], device=power_nFK.device, dtype=torch.int16)
    left_nFK, right_nFK = bin_K + below_peak_nFK * _FAR, bin_K - below_peak_nFK * _FAR
    for by in _SHIFTS:
        left_nFK = torch.cat([left_nFK[..., :by], torch.maximum(left_nFK[..., by:], left_nFK[..., :-by])], -1)
        right_nFK = torch.cat([torch.minimum(right_nFK[..., :-by], right_nFK[..., by:]), right_nFK[..., -by:]], -1)
    # Twice the distance, plus one to the right: the smaller of both sides is the nearer peak.
    coded_nFK = torch.minimum(2 * (bin_K - left_nFK), 2 * (right_nFK - bin_K) + 1)
    side_nFK = (coded_nFK & 1) * 2 - 1
    found_nFK = 1 - (coded_nFK >> _FAR_BIT).clamp(max=1)
    return (bin_K + (coded_nFK >> 1) * side_nFK * found_nFK).long()


def _weights(ratio_n: Tensor, n_fft: int, degree: int, dtype: torch.dtype) -> Tensor:
    """Real factor of each bin, (n, K): 0 above what reading maps to Nyquist, else 1/sinc^(d + 1) for the spline."""
    K = n_fft // 2 + 1
    bin_K = torch.arange(K, device=ratio_n.device, dtype=torch.float64)
    kept_nK = bin_K <= ((K - 1) / ratio_n.clamp(min=1))[:, None]
    return (kept_nK * torch.sinc(bin_K / n_fft) ** -(degree + 1)).to(dtype)


def _overlap_add(frames_nJt: Tensor, window: Tensor, hop: int) -> Tensor:
    """Windowed frames over the sum of squared windows, from `_SPLINE_REACH` samples before the first centre."""
    n, J, n_fft = frames_nJt.shape
    overlap = n_fft // hop
    total = frames_nJt.new_zeros(n, J + overlap - 1, hop)
    weight = frames_nJt.new_zeros(J + overlap - 1, hop)
    for part, frame_part in enumerate(frames_nJt.view(n, J, overlap, hop).unbind(2)):
        window_part = window[part * hop : (part + 1) * hop]
        total[:, part : part + J].addcmul_(frame_part, window_part)
        weight[part : part + J] += window_part.square()
    return (total / weight.clamp(min=1e-3)).flatten(1)[:, n_fft // 2 - _SPLINE_REACH :]
