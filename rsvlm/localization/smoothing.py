"""The Smooth-Attention-Operation: attention pooling over a window around every position.

    z_p = Σ a_i v_i / Σ a_i,  a_i = exp(s_i),  over the positions i of the window around p

A window of one position gives the position's own value; a window over the whole grid, `2 · max(h, w) - 1` or more, is the model's own
pooling, everywhere. So one number leads from places to images. Windows are cut at the edges, and the weights in what is left normalised.
Where the model pools a class token too, that belongs to every window (`common`).

The operation stands here twice, and the tests hold both against the definition:

    smooth_attention   for tensors on any device, with its gradient: grids of patches
    smooth_pool        for arrays, compiled; its cost does not depend on the window: maps of any size

Both only add weights, and never subtract what left a window, so no large weight outside a window costs a digit inside it.

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


def check_window(window: int) -> None:
    """Raise DataError for a window that has no centre."""
    if window != int(window) or window < 1 or window % 2 == 0:
        raise DataError(f"window {window}: a window is centred on its position, so give an odd number, 1 or more")


# Tensors, with a gradient


def smooth_attention(scores: Tensor, values: Tensor, window: int, common: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Pool the window around each position of a grid of tensors, in float64; it can be differentiated once.

    Args:
        scores: (B, n, h, w) float, on any device.
        values: (B, n, h, w, d) float.
        window: Side of the window, odd; it may be larger than the grid.
        common: Score and value of a position that is in every window, (B, n) and (B, n, d), or one for each place, (B, n, h, w) and
            (B, n, h, w, d). If None, there is none.

    Returns:
        (B, n, h, w, d), of the type of `values`.

    Raises:
        DataError: An even window, shapes that do not fit, or scores of one map that are not finite or more than 1,200 apart.
    """
    check_window(window)
    if scores.ndim != 4 or values.ndim != 5 or values.shape[:4] != scores.shape or not scores.numel():
        shapes = f"scores of shape {tuple(scores.shape)} and values of shape {tuple(values.shape)}"
        raise DataError(f"{shapes}: expected (B, n, h, w) and (B, n, h, w, d)")
    spread = (scores.amax(dim=(2, 3)).double() - scores.amin(dim=(2, 3)).double()).max().item()
    if not spread <= SCORE_RANGE:
        raise DataError(f"scores lie {spread:.4g} apart: they may lie {SCORE_RANGE:,.0f} apart; divide them by a temperature")
    pooled, logs = _SmoothAttention.apply(scores, values, min(window // 2, max(scores.shape[2:]) - 1))
    if common is None:
        return pooled
    score, value = (part if part.ndim > 3 else part[:, :, None, None] for part in common)
    share = (logs - score.double()).sigmoid()[..., None].to(values.dtype)  # of the window, beside what is in all of them
    return share * pooled + (1 - share) * value


class _SmoothAttention(torch.autograd.Function):
    """The operation with A_p = Σ a_i, and its gradient, in which no quotient of far-apart weights is formed."""

    @staticmethod
    def forward(ctx, scores: Tensor, values: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        """z_p = Σ a_i v_i / A_p and log A_p over the positions i in the window around p."""
        s, v = scores.double(), values.double()
        middle = (s.amin(dim=(2, 3), keepdim=True) + s.amax(dim=(2, 3), keepdim=True)) / 2
        a = torch.exp(s - middle)  # a factor of all weights of a map cancels
        A = _window_sums(a[..., None], radius)  # (B, n, h, w, 1)
        z = _window_sums(a[..., None] * v, radius) / A
        ctx.radius = radius
        ctx.save_for_backward(a, v, A, z)
        ctx.dtypes = scores.dtype, values.dtype
        return z.to(values.dtype), A[..., 0].log() + middle

    @staticmethod
    def backward(ctx, gradient: Tensor, of_logs: Tensor) -> tuple[Tensor, Tensor, None]:
        """With g_p = ∂L/∂z_p and l_p = ∂L/∂(log A_p), over the windows p that hold i.

        ∂L/∂v_i = a_i Σ g_p / A_p and ∂L/∂s_i = a_i Σ (g_p·(v_i - z_p) + l_p) / A_p.
        """
        a, v, A, z = ctx.saved_tensors
        g = gradient.double() / A
        of_values = a[..., None] * _window_sums(g, ctx.radius)
        rest = (g * z).sum(-1, keepdim=True) - of_logs[..., None] / A
        of_scores = (of_values * v).sum(-1) - a * _window_sums(rest, ctx.radius)[..., 0]
        return of_scores.to(ctx.dtypes[0]), of_values.to(ctx.dtypes[1]), None


def _window_sums(x: Tensor, radius: int) -> Tensor:
    """Sum (B, n, h, w, d) over the window around each position, along one axis and then the other."""
    B, n, h, w, d = x.shape
    side = 2 * radius + 1
    planes = x.movedim(-1, 2).reshape(B, n * d, h, w)
    planes = F.avg_pool2d(planes, (side, 1), 1, (radius, 0), divisor_override=1)
    planes = F.avg_pool2d(planes, (1, side), 1, (0, radius), divisor_override=1)
    return planes.view(B, n, d, h, w).movedim(2, -1)


# Arrays of any size, compiled


def smooth_pool(
    scores: np.ndarray, values: np.ndarray, window: int, common: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Pool the window around each position of a map, at a cost that does not depend on the window.

    Sums are put together from the tail of one block and the head of the next (van Herk 1992, Gil and Werman 1993). They are in
    float32, or in float64 where float32 would lose small weights to underflow, because the scores reach too far apart, or digits,
    because the window is large. Memory beside the result: `4 * window * w * (D + 1)` numbers for each thread.

    Args:
        scores: (h, w) float32, the q·k_i / √d. NaN and -inf mean that there is no data at this place.
        values: (h, w, D) or (h, w) float32.
        window: Side of the window, odd, at least 1; it may be larger than the grid.
        common: Score and value, at each place, of a position that is in its window wherever that lies: (h, w) and as `values`. If
            None, there is none.

    Returns:
        Of the shape of `values`, float32; NaN where a window holds no data at all.

    Raises:
        DataError: An even window, shapes that do not fit, a score of +inf, or scores more than 1,200 apart.
    """
    # What is asked.
    scores = np.ascontiguousarray(scores, np.float32)
    planes = np.ascontiguousarray(values, np.float32)
    planes = planes[..., None] if planes.ndim == 2 else planes
    if scores.ndim != 2 or planes.ndim != 3 or planes.shape[:2] != scores.shape or not scores.size:
        raise DataError(
            f"scores of shape {scores.shape} and values of shape {np.shape(values)}: expected (h, w) and (h, w, D)"
        )
    check_window(window)
    lowest, highest = _finite_range(scores)
    if highest == np.inf or highest - lowest > SCORE_RANGE:
        raise DataError(f"scores from {lowest:.4g} to {highest:.4g}: they may lie 1,200 apart; divide them by a temperature")

    # exp(±30) and its sums keep all of float32's digits; exp(±600) those of float64.
    precision = np.float32 if highest - lowest <= 60 and window <= 255 else np.float64

    # Threads work on bands of rows; each band reads `radius` rows more above and below.
    (h, w), radius, threads = scores.shape, int(window) // 2, get_num_threads()
    bands = min(h, max(threads, min(4 * threads, h // (4 * radius + 1))))
    out, logs = np.empty(planes.shape, np.float32), np.empty(scores.shape, np.float32)
    radii = min(radius, h - 1), min(radius, w - 1)
    _pool_bands(scores, planes, (lowest + highest) / 2, *radii, np.empty(bands, precision), out, logs)
    if common is not None:
        with np.errstate(over="ignore"):
            share = (1 / (1 + np.exp(common[0] - logs)))[..., None]  # of the window, beside what is in all of them
        out *= share
        out += (1 - share) * common[1].reshape(planes.shape)
    return out.reshape(np.shape(values))


@njit(cache=True)
def _finite_range(scores):
    """Least and greatest of (h, w) scores that are neither NaN nor -inf; 0 and 0 where there is none."""
    lowest, highest = np.inf, -np.inf
    for value in scores.flat:
        if value > -np.inf:
            lowest, highest = min(lowest, value), max(highest, value)
    return (lowest, highest) if lowest <= highest else (0.0, 0.0)


@njit(cache=True, parallel=True, error_model="numpy")
def _pool_bands(scores, values, middle, radius_y, radius_x, bands, out, logs):
    """Fill (h, w, D) `out`, and (h, w) `logs` of the sums of weights, band by band; `bands` has an item for each band, and the type of the sums.

    The rows that a band reads are cut into blocks of one window's height. The window around row j of the output covers the rows from
    j on of one block, its tail, and the first j rows of the next one, its head.
    """
    h, w, D = values.shape
    window, count = 2 * radius_y + 1, len(bands)
    for band in prange(count):
        first, last = band * h // count, (band + 1) * h // count

        # Of each row, plane 0 holds weights, and the others weighted values.
        tails = np.zeros((window, D + 1, w), bands.dtype)
        following = np.zeros((window, D + 1, w), bands.dtype)  # the next block
        head, sums = np.zeros((D + 1, w), bands.dtype), np.empty((D + 1, w), bands.dtype)
        blocks = -(-w // (2 * radius_x + 1)) + 1
        scratch = np.empty((2, 2 * radius_x + 1, blocks), bands.dtype)

        # The first block is the window around the first row.
        for j in range(window):
            if 0 <= first - radius_y + j < h:
                _weigh(scores[first - radius_y + j], values[first - radius_y + j], middle, tails[j])
        _sum_tails(tails)

        for start in range(first, last, window):
            head[:] = 0
            for j in range(min(window, last - start)):
                # Sums over the window of row start + j, and from them the weighted means.
                for d in range(D + 1):
                    for x in range(w):
                        sums[d, x] = tails[j, d, x] + head[d, x]
                    _sum_along(sums[d], radius_x, scratch[0], scratch[1])
                for x in range(w):
                    logs[start + j, x] = np.log(sums[0, x]) + middle
                for d in range(D):
                    for x in range(w):
                        out[start + j, x, d] = sums[d + 1, x] / sums[0, x]

                # One row more goes into the next block and its head.
                row = start + j + radius_y + 1
                following[j] = 0
                if row < h:
                    _weigh(scores[row], values[row], middle, following[j])
                    for d in range(D + 1):
                        for x in range(w):
                            head[d, x] += following[j, d, x]
            tails, following = following, tails
            _sum_tails(tails)


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
def _sum_tails(rows):
    """Add to every row of (window, D + 1, w) all the rows after it."""
    for j in range(len(rows) - 2, -1, -1):
        for d in range(rows.shape[1]):
            for x in range(rows.shape[2]):
                rows[j, d, x] += rows[j + 1, d, x]


@njit(cache=True)
def _sum_along(line, radius, tails, heads):
    """Replace every item of a (w,) line by the sum of those within `radius`; `tails` and `heads` are (window, blocks) scratch.

    Here too a window is the tail of one block and the head of the next. Blocks lie side by side, so that all are summed at once.
    """
    # Blocks of the line, the first one beginning `radius` items before it.
    window, blocks = tails.shape
    count = len(line)
    tails[:, 0] = 0
    tails[:, max(0, (count + radius) // window) :] = 0
    for b in range(blocks):
        first = b * window - radius
        for j in range(max(0, -first), min(window, count - first)):
            tails[j, b] = line[first + j]

    # Items before each place of a block, and then from each place on.
    heads[0] = 0
    for j in range(1, window):
        for b in range(blocks):
            heads[j, b] = heads[j - 1, b] + tails[j - 1, b]
    for j in range(window - 2, -1, -1):
        for b in range(blocks):
            tails[j, b] += tails[j + 1, b]
    for b in range(blocks - 1):
        for j in range(min(window, count - b * window)):
            line[b * window + j] = tails[j, b] + heads[j, b + 1]
