"""Analysis frames to synthesis frames in one pass: phase advances, peaks, identity phase locking, anti-alias weights.

A program loops over the frames of one row with all its bins, so nothing but the spectrum is read and nothing but
the synthesis frames is written. Where rows are too few to fill the GPU, a row's frames are split among programs, and
how far the phases turn in each part is found first.

A real inverse transform of n_fft samples is a complex one of half the length (see `kernels.spectrum`): frames leave
interleaved for it.

Shape suffixes: n rows, m rows that a kernel works on, F analysis frames, J synthesis frames, P parts of a row, K bins.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainers.augment.dsp.resampling import spline_degree
from trainers.augment.kernels.complex_words import pack, roots_of_unity, times, unpack, words

TINY = tl.constexpr(1e-18)
"""Modulus under which a number has no phase of its own."""
PEAK_REACH = tl.constexpr(2)
"""A peak is no lower than this many bins to both sides."""
OWNER_REACH = tl.constexpr(31)
"""A peak is looked for up to so many bins away."""
FAR = tl.constexpr(1 << 13)
PROGRAMS_A_PROCESSOR = 4
MAX_REGISTERS = 128
"""A thread's; with more, a multiprocessor of a Hopper GPU holds three programs of four warps instead of four."""


@triton.jit
def _unit(re, im):
    """A number over its modulus, and 1 for 0."""
    re += TINY
    over = tl.rsqrt(re * re + im * im)
    return re * over, im * over


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b)


@triton.jit
def _power(frame, k, half: tl.constexpr):
    inside = (k >= 0) & (k <= half)
    re, im = unpack(tl.load(frame + k, mask=inside, other=0))
    return tl.where(inside, re * re + im * im, -1.0)


@triton.jit
def _is_peak(frame, k, half: tl.constexpr):
    power = _power(frame, k, half)
    highest = power
    for by in tl.static_range(1, PEAK_REACH + 1):
        highest = tl.maximum(highest, tl.maximum(_power(frame, k - by, half), _power(frame, k + by, half)))
    return power >= highest


@triton.jit
def _owners(frame, k, half: tl.constexpr):
    """Bin of the nearest peak, the lower one of two, the bin itself where none is within reach; then Nyquist's."""
    is_peak, last_is_peak = _is_peak(frame, k, half), _is_peak(frame, half, half)
    peak = tl.where(is_peak, k, -FAR)
    left = tl.associative_scan(peak, 0, _larger)
    right = tl.associative_scan(tl.where(is_peak, k, FAR), 0, _smaller, reverse=True)
    right = tl.minimum(right, tl.where(last_is_peak, half, FAR))
    to_left, to_right = k - left, right - k
    nearest = tl.where(to_left <= to_right, left, right)
    owner = tl.where(tl.minimum(to_left, to_right) <= OWNER_REACH, nearest, k)
    highest = tl.max(peak, 0)
    return owner, tl.where(last_is_peak | (half - highest > OWNER_REACH), half, highest)


@triton.jit
def _below(j, step, frames):
    return tl.minimum((j * step).to(tl.int32), frames - 2)


@triton.jit
def _advanced(phase_re, phase_im, here, above):
    """The phases times unit(above) · conj unit(here), and both units."""
    here_re, here_im = unpack(here)
    next_re, next_im = unpack(above)
    here_re, here_im = _unit(here_re, here_im)
    next_re, next_im = _unit(next_re, next_im)
    turn_re, turn_im = times(next_re, next_im, here_re, -here_im)
    phase_re, phase_im = times(phase_re, phase_im, turn_re, turn_im)
    return phase_re, phase_im, here_re, here_im, next_re, next_im


@triton.jit(do_not_specialize=["frames", "part", "parts"], do_not_specialize_on_alignment=["row", "ratio", "tempo"])
def part_kernel(spectrum, turned, row, ratio, tempo, frames, part, parts, HALF: tl.constexpr, BLOCK: tl.constexpr):
    i, p = (tl.program_id(0) // (parts - 1)).to(tl.int64), tl.program_id(0) % (parts - 1)
    at = tl.load(row + i)
    step = tl.load(tempo + at) / tl.load(ratio + at)
    k = tl.arange(0, BLOCK)
    base = spectrum + i * frames * (HALF + 1) + k
    re, im = tl.full([BLOCK], 1.0, tl.float32), tl.zeros([BLOCK], tl.float32)
    for j in range(p * part, (p + 1) * part):
        below = _below(j, step, frames)
        here = tl.load(base + below * (HALF + 1), mask=k <= HALF, other=0)
        above = tl.load(base + (below + 1) * (HALF + 1), mask=k <= HALF, other=0)
        re, im, _, _, _, _ = _advanced(re, im, here, above)
    tl.store(turned + (i * (parts - 1) + p) * (HALF + 1) + k, pack(re, im), mask=k <= HALF)


@triton.jit
def _first_phase(base, turned, k, p, parts_before):
    """Phases at the beginning of part p: those of frame 0, turned through the parts before."""
    re, im = unpack(tl.load(base + k))
    re, im = _unit(re, im)
    for before in range(p):
        turn_re, turn_im = unpack(tl.load(turned + before * parts_before + k))
        re, im = times(re, im, turn_re, turn_im)
    return re, im


@triton.jit(
    do_not_specialize=["frames", "moved", "part", "parts"], do_not_specialize_on_alignment=["row", "ratio", "tempo"]
)
def turn_kernel(
    spectrum, turned, out, row, ratio, tempo, weights, roots, frames, moved, part, parts, HALF: tl.constexpr
):
    """Bins 0 to HALF − 1 in vectors, the last one, Nyquist's, in scalars: no lane is idle."""
    BINS: tl.constexpr = HALF + 1
    i, p = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts
    at = tl.load(row + i)
    stride = tl.load(ratio + at)
    step = tl.load(tempo + at) / stride
    k = tl.arange(0, HALF)
    base = spectrum + i * frames * BINS
    before = turned + i * (parts - 1) * BINS
    # Above its last kept bin reading with this stride would alias.
    weight = tl.where(k <= HALF / tl.maximum(stride, 1.0), tl.load(weights + k), 0.0)
    last_weight = tl.load(weights + HALF)
    root_re, root_im = unpack(tl.load(roots + k))
    phase_re, phase_im = _first_phase(base, before, k, p, BINS)
    last_re, last_im = _first_phase(base, before, HALF, p, BINS)
    first = p * part
    below = _below(first, step, frames)
    here, above = tl.load(base + below * BINS + k), tl.load(base + (below + 1) * BINS + k)
    for j in range(first, tl.minimum(first + part, moved)):
        # The next frames are loaded before these are worked on: the loop would wait for each otherwise.
        ahead = _below(j + 1, step, frames)
        coming, coming_above = tl.load(base + ahead * BINS + k), tl.load(base + (ahead + 1) * BINS + k)
        below = _below(j, step, frames)
        nearest = tl.minimum((j * step + 0.5).to(tl.int32), frames - 1)
        is_below = nearest == below
        owner, last_owner = _owners(base + nearest * BINS, k, HALF)
        new_re, new_im, here_re, here_im, next_re, next_im = _advanced(phase_re, phase_im, here, above)
        own_re, own_im = tl.where(is_below, here_re, next_re), tl.where(is_below, here_im, next_im)
        turn_re, turn_im = times(phase_re, phase_im, own_re, -own_im)
        last_here, last_above = tl.load(base + below * BINS + HALF), tl.load(base + (below + 1) * BINS + HALF)
        new_last_re, new_last_im, a_re, a_im, b_re, b_im = _advanced(last_re, last_im, last_here, last_above)
        lone_re, lone_im = times(last_re, last_im, tl.where(is_below, a_re, b_re), -tl.where(is_below, a_im, b_im))
        got_re, got_im = _of_owner(turn_re, lone_re, owner, HALF), _of_owner(turn_im, lone_im, owner, HALF)
        x_re, x_im = unpack(tl.where(is_below, here, above))
        y_re, y_im = times(x_re * weight, x_im * weight, got_re, got_im)
        # A real inverse reads no imaginary part of the first and the last bin.
        y_im = tl.where(k > 0, y_im, 0.0)
        last_y = 0.0
        if stride <= 1.0:
            if last_owner < HALF:
                lone_re = tl.sum(tl.where(k == last_owner, turn_re, 0.0), 0)
                lone_im = tl.sum(tl.where(k == last_owner, turn_im, 0.0), 0)
            last_x_re, last_x_im = unpack(tl.where(is_below, last_here, last_above))
            last_y = last_weight * (last_x_re * lone_re - last_x_im * lone_im)
        mirrored = tl.where(k == 0, 0, HALF - k)
        z_re = tl.where(k == 0, last_y, tl.gather(y_re, mirrored, 0))
        z_im = tl.where(k == 0, 0.0, tl.gather(y_im, mirrored, 0))
        odd_re, odd_im = times(y_re - z_re, y_im + z_im, root_re, root_im)
        scale = 0.5 / HALF
        word = pack(scale * (y_re + z_re - odd_im), scale * (y_im - z_im + odd_re))
        tl.store(out + (i * moved + j) * HALF + k, word)
        phase_re, phase_im, last_re, last_im = new_re, new_im, new_last_re, new_last_im
        here, above = coming, coming_above


@triton.jit
def _of_owner(value, last, owner, half: tl.constexpr):
    got = tl.gather(value, tl.minimum(owner, half - 1), 0)
    return tl.where(owner == half, last, got)


def turn_frames(
    spectrum: Tensor,
    row_m: Tensor,
    ratio_n: Tensor,
    tempo_n: Tensor,
    *,
    frames: int,
    moved: int,
    rows: int,
    parts: int | None = None,
) -> Tensor:
    """The nearest analysis frame of each synthesis frame, turned to where its phases have advanced to.

    Args:
        spectrum: complex64 (≥ m·F, K), each row's frames one after the other.
        row_m: int64, into the parameters.
        ratio_n: float64.
        tempo_n: float64.
        frames: F ≥ 2.
        moved: J.
        rows: of the result, ≥ m·J.
        parts: of a row's frames, each a program; as many as fill the GPU if None.

    Returns:
        complex64 (rows, K − 1): the transform of sample pairs, ready for an inverse without a factor.
    """
    m, bins = len(row_m), spectrum.shape[1]
    device = spectrum.device
    out = torch.empty(rows, bins - 1, dtype=torch.complex64, device=device)
    if m == 0:
        return out
    part = -(-moved // (_fill(m, device) if parts is None else parts))
    parts = -(-moved // part)
    turned = torch.empty(m, parts - 1, bins, dtype=torch.complex64, device=device)
    half, source = bins - 1, words(spectrum)
    if parts > 1:
        part_kernel[(m * (parts - 1),)](
            source, words(turned), row_m, ratio_n, tempo_n, frames, part, parts, HALF=half, BLOCK=2 * half, num_warps=8
        )
    turn_kernel[(m * parts,)](
        source, words(turned), words(out), row_m, ratio_n, tempo_n, _spline_weights(bins, device),
        words(roots_of_unity(half, 2 * half, device)), frames, moved, part, parts, HALF=half,
        num_warps=half // 128, maxnreg=MAX_REGISTERS,
    )  # fmt: skip
    return out


def _fill(rows: int, device: torch.device) -> int:
    """Parts of a row that give every multiprocessor its programs."""
    if device.type != "cuda":
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(16, processors * PROGRAMS_A_PROCESSOR // rows))


@lru_cache(maxsize=8)
def _spline_weights(bins: int, device: torch.device) -> Tensor:
    """1/sinc^(degree + 1) of each bin, which the spline's reading takes away again, float32 (K,)."""
    n_fft = 2 * bins - 2
    bin_K = torch.arange(bins, dtype=torch.float64)
    return (torch.sinc(bin_K / n_fft) ** -(spline_degree(n_fft) + 1)).float().to(device)
