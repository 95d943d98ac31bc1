"""The Smooth-Attention-Operation: attention pooling over a window around every position.

    z_p = Σ a_i v_i / Σ a_i,  a_i = exp(s_i),  over the positions i of the window around p

A window of one position gives the position's own value; a window over the whole grid is the model's own pooling, everywhere. So one
number leads from places to images. It stands here twice: `smooth_attention` for tensors, with its gradient, and `smooth_pool`, a
compiled loop whose cost does not depend on the window, for maps of any size. The tests hold both against the definition.

Letters: B batch, n heads, d width of a head, h w grid, D values of a position.

Source: the operation is named in the paper without its formula; this definition is ours.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numba import get_num_threads, njit, prange
from torch import Tensor

from rsvlm.errors import DataError

SCORE_RANGE = 1200.0
"""Scores of one map may lie this far apart: exp(±600) and sums of them are float64 numbers."""


def smooth_attention(scores: Tensor, values: Tensor, window: int) -> Tensor:
    """Smooth-Attention-Operation: z_p = Σ a_i v_i / Σ a_i with a_i = exp(s_i), over the window around each position p.

    Windows are cut at the edges and their weights normalised, as in `smoothing.smooth_pool`, which does the same to a large raster.
    Sums are float64 and direct, so no window loses digits to large weights outside it. It can be differentiated once.

    Args:
        scores: (B, n, h, w), on any device.
        values: (B, n, h, w, d).
        window: Side of the window, odd; it may be larger than the grid.

    Returns:
        (B, n, h, w, d), of the type of `values`.

    Raises:
        DataError: An even window, shapes that do not fit, or scores of one map that are not finite or more than 1,200 apart.
    """
    check_window(window)
    if scores.ndim != 4 or values.ndim != 5 or values.shape[:4] != scores.shape or not scores.numel():
        raise DataError(
            f"scores of shape {tuple(scores.shape)} and values of shape {tuple(values.shape)}: expected (B, n, h, w) and "
            "(B, n, h, w, d)"
        )
    spread = (scores.amax(dim=(2, 3)).double() - scores.amin(dim=(2, 3)).double()).max().item()
    if not spread <= SCORE_RANGE:
        raise DataError(f"scores lie {spread:.4g} apart: they may lie {SCORE_RANGE:,.0f} apart; divide them by a temperature")
    return _SmoothAttention.apply(scores, values, min(window // 2, max(scores.shape[2:]) - 1))


class _SmoothAttention(torch.autograd.Function):
    """Window pooling in float64 with a backward pass in which no quotient of far-apart weights is formed."""

    @staticmethod
    def forward(ctx, scores: Tensor, values: Tensor, radius: int) -> Tensor:
        """Pool; `radius` is cut to the grid."""
        s, v = scores.double(), values.double()
        low, high = s.amin(dim=(2, 3), keepdim=True), s.amax(dim=(2, 3), keepdim=True)
        a = torch.exp(s - (low + high) / 2)
        total = _direct_sums(a[..., None], radius)  # (B, n, h, w, 1)
        z = _direct_sums(a[..., None] * v, radius) / total
        ctx.radius = radius
        ctx.save_for_backward(a, v, total, z)
        ctx.dtypes = scores.dtype, values.dtype
        return z.to(values.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """dv_i = a_i Σ g_p / A_p and ds_i = a_i Σ g_p·(v_i - z_p) / A_p over the windows p that hold i, A_p their weight."""
        a, v, total, z = ctx.saved_tensors
        g = gradient.double() / total
        of_values = a[..., None] * _direct_sums(g, ctx.radius)
        of_scores = (of_values * v).sum(-1) - a * _direct_sums((g * z).sum(-1, keepdim=True), ctx.radius)[..., 0]
        return of_scores.to(ctx.dtypes[0]), of_values.to(ctx.dtypes[1]), None


def _direct_sums(x: Tensor, radius: int) -> Tensor:
    """Sum (B, n, h, w, d) over windows of positions, cut at the edges; direct sums, along one axis and then the other."""
    B, n, h, w, d = x.shape
    side = 2 * radius + 1
    flat = x.movedim(-1, 2).reshape(B, n * d, h, w)
    flat = F.avg_pool2d(flat, (side, 1), 1, (radius, 0), divisor_override=1)
    flat = F.avg_pool2d(flat, (1, side), 1, (0, radius), divisor_override=1)
    return flat.view(B, n, d, h, w).movedim(2, -1)


def check_window(window: int) -> None:
    """Raise DataError for a window that has no centre."""
    if window != int(window) or window < 1 or window % 2 == 0:
        raise DataError(f"window {window}: a window is centred on its position, so give an odd number, 1 or more")


def smooth_pool(scores: np.ndarray, values: np.ndarray, window: int) -> np.ndarray:
    """Smooth-Attention-Operation: z_p = Σ a_i v_i / Σ a_i with a_i = exp(s_i), over the window around each position p.

    The window is cut at the edges of the grid, and the weights in what is left are normalised. So `window=1` gives back the values,
    and from `window = 2 * max(h, w) - 1` on every position gets the global attention pooling. The cost does not depend on the
    window: sums are put together from the end of one block and the start of the next (van Herk 1992, Gil and Werman 1993), with
    additions alone, so nothing drifts and no large weight outside a window costs a digit inside it. Where float32 would lose small
    weights to underflow, because the scores reach too far apart, or digits, because the window is large, sums are in float64.

    Memory beside the result: `4 * window * w * (D + 1)` numbers for each thread.

    Args:
        scores: (h, w) float32, the q·k_i / √d. NaN and -inf mean that there is no data at this place.
        values: (h, w, D) or (h, w) float32.
        window: Side of the window, odd, at least 1; it may be larger than the grid.

    Returns:
        Of the shape of `values`, float32; NaN where a window holds no data at all.

    Raises:
        DataError: An even window, shapes that do not fit, a score of +inf, or scores more than 1,200 apart.

    Source: our definition of the operation that the paper names; the paper does not state its formula.
    """
    scores = np.ascontiguousarray(scores, np.float32)
    planes = np.ascontiguousarray(values, np.float32)
    planes = planes[..., None] if planes.ndim == 2 else planes
    if scores.ndim != 2 or planes.ndim != 3 or planes.shape[:2] != scores.shape or not scores.size:
        raise DataError(
            f"scores of shape {scores.shape} and values of shape {np.shape(values)}: expected (h, w) and (h, w, D)"
        )
    check_window(window)
    (h, w), radius = scores.shape, int(window) // 2
    lowest, highest = finite_range(scores)
    if highest == np.inf or highest - lowest > SCORE_RANGE:
        raise DataError(f"scores from {lowest:.4g} to {highest:.4g}: they may lie 1,200 apart; divide them by a temperature")
    # exp(±30) and its sums keep all of float32's digits; exp(±600) those of float64
    work = np.float32 if highest - lowest <= 60 and window <= 255 else np.float64
    threads = get_num_threads()
    bands = min(h, max(threads, min(4 * threads, h // (4 * radius + 1))))  # each reads `radius` rows more above and below
    out = np.empty(planes.shape, np.float32)
    _smooth_bands(scores, planes, (lowest + highest) / 2, min(radius, h - 1), min(radius, w - 1), np.empty(bands, work), out)
    return out.reshape(np.shape(values))


@njit(cache=True)
def finite_range(scores):
    """Least and greatest of (h, w) scores that are neither NaN nor -inf; 0 and 0 where there is none."""
    lowest, highest = np.inf, -np.inf
    for value in scores.flat:
        if value > -np.inf:
            lowest, highest = min(lowest, value), max(highest, value)
    return (lowest, highest) if lowest <= highest else (0.0, 0.0)


@njit(cache=True, parallel=True, error_model="numpy")
def _smooth_bands(scores, values, middle, radius_y, radius_x, work, out):
    """Fill (h, w, D) `out` band of rows by band; `work` has an item per band, its type is that of the sums."""
    h, w, D = values.shape
    window, bands = 2 * radius_y + 1, len(work)
    for band in prange(bands):
        first, last = band * h // bands, (band + 1) * h // bands
        # Plane 0 holds weights, the others weighted values. `rest[j]` sums row j of a block and all after it; `block` is the next.
        rest = np.zeros((window, D + 1, w), work.dtype)
        block = np.zeros((window, D + 1, w), work.dtype)
        start_of_block, sums = np.zeros((D + 1, w), work.dtype), np.empty((D + 1, w), work.dtype)
        blocks = -(-w // (2 * radius_x + 1)) + 1
        lanes = np.empty((2, 2 * radius_x + 1, blocks), work.dtype)
        for j in range(window):
            if 0 <= first - radius_y + j < h:
                _weigh(scores[first - radius_y + j], values[first - radius_y + j], middle, rest[j])
        _sum_upwards(rest)
        for start in range(first, last, window):
            start_of_block[:] = 0
            for j in range(min(window, last - start)):
                for d in range(D + 1):
                    for x in range(w):
                        sums[d, x] = rest[j, d, x] + start_of_block[d, x]
                    _window_sums(sums[d], radius_x, lanes[0], lanes[1])
                for d in range(D):
                    for x in range(w):
                        out[start + j, x, d] = sums[d + 1, x] / sums[0, x]
                following = start + j + radius_y + 1
                block[j] = 0
                if following < h:
                    _weigh(scores[following], values[following], middle, block[j])
                    for d in range(D + 1):
                        for x in range(w):
                            start_of_block[d, x] += block[j, d, x]
            rest, block = block, rest
            _sum_upwards(rest)


@njit(cache=True)
def _weigh(scores, values, middle, out):
    """Write a = exp(scores - middle) into out[0] and a · values into out[1:], zeros where there is no data."""
    w, D = values.shape
    if out.itemsize == 4:
        # exp in operations that run in vector registers: 2^k times a polynomial (the coefficients of Cephes' expf), 1e-7 exact
        for x in range(w):
            score = np.float32(scores[x] - np.float32(middle)) if scores[x] > -np.inf else np.float32(0)
            k = np.floor(score * np.float32(1.44269504) + np.float32(0.5))
            r = score - k * np.float32(0.693359375) + k * np.float32(2.12194440e-4)
            p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
            p = (p * r + np.float32(8.3334519073e-3)) * r + np.float32(4.1665795894e-2)
            p = (p * r + np.float32(1.6666665459e-1)) * r + np.float32(0.5)
            p = p * r * r + r + np.float32(1)
            power = np.int32((np.int32(k) + np.int32(127)) << 23).view(np.float32)
            out[0, x] = p * power if scores[x] > -np.inf else np.float32(0)
    else:
        for x in range(w):
            out[0, x] = np.exp(scores[x] - middle) if scores[x] > -np.inf else 0.0
    for d in range(D):
        for x in range(w):
            out[d + 1, x] = out[0, x] * values[x, d] if out[0, x] > 0 else out.dtype.type(0)


@njit(cache=True)
def _sum_upwards(rows):
    """Add to every row of (window, D + 1, w) all the rows after it."""
    for j in range(len(rows) - 2, -1, -1):
        for d in range(rows.shape[1]):
            for x in range(rows.shape[2]):
                rows[j, d, x] += rows[j + 1, d, x]


@njit(cache=True)
def _window_sums(line, radius, rest, start):
    """Replace every item of a (w,) line by the sum of those within `radius`; `rest` and `start` are (window, blocks) scratch.

    Blocks lie side by side in the scratch, so that all of them are summed at once.
    """
    window, blocks = rest.shape
    count = len(line)
    rest[:, 0] = 0
    rest[:, max(0, (count + radius) // window) :] = 0
    for b in range(blocks):
        first = b * window - radius
        for j in range(max(0, -first), min(window, count - first)):
            rest[j, b] = line[first + j]
    start[0] = 0
    for j in range(1, window):
        for b in range(blocks):
            start[j, b] = start[j - 1, b] + rest[j - 1, b]
    for j in range(window - 2, -1, -1):
        for b in range(blocks):
            rest[j, b] += rest[j + 1, b]
    for b in range(blocks - 1):
        for j in range(min(window, count - b * window)):
            line[b * window + j] = rest[j, b] + start[j, b + 1]
