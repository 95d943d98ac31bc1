"""Whether two pictures that their perceptual hashes take for one look alike in every part: a second look.

Frames, titles and margins that different pictures share decide a hash, which sees the lowest frequencies alone. So small windows are
compared one by one, and the one that agrees least decides: in each the brightness of one picture has to go up and down as the other's
does. A copy whose edges were cut is a little larger, so both are also compared after being moved together by that much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsvlm.data import near_hashes

SIDE = 32
"""Pixels on each side of the small picture that is kept; windows are of 4 x 4 cells of 2 x 2 of them."""

NOISE = 1.5
"""Standard deviation of the luma (0 to 255) of cells that is taken for noise of compression, or for a plain margin."""

ALIKE = 0.85
"""Smallest correlation of two pictures in a window, the variance of noise added to both and to what they share.

Source: our choice, with `NOISE`, `UNLIKE` and `ZOOM`, on 200 to 400 pictures each of RSICD, photographs, the Blue Marble and drawn
fields, bare and in seven frames (map sheets, slides of a talk that they fill a fifth of, turned by 12 degrees on black and white). By
hashes alone, with no chains, 1 to 41 % of RSICD's in frames and 1 to 97 % of the others are dropped as near another one; with this
second look none is, but 2 of 200 slides with the faintest pictures. Of copies that were compressed (JPEG, quality 30 to 95), made
smaller or larger, brighter, darker or of other contrast 97 to 100 % agree, of frames made smaller without any smoothing 92 %; of those
cropped by 3 % in all 89 % of bare pictures and 82 % of framed ones, where `duplicates.DISTANCE` alone finds 90 and 85 %.
"""

UNLIKE = 0.2
"""Correlation in a window below which no shift of a few per cent is made up for."""

ZOOM = 1.03
"""How much larger a copy with cut edges shows what both show."""

COLUMN = "small"
"""Name of the small picture in a table: its bytes."""


def small(luma: np.ndarray) -> list[bytes]:
    """Make the small pictures that are kept in a table, of `(N, 32, 32)` float32 luma as from `duplicates.thumbnails`."""
    return [array.tobytes() for array in np.rint(np.clip(luma, 0, 255)).astype(np.uint8)]


def unpacked(column: Sequence[bytes]) -> np.ndarray:
    """Return the small pictures of a column, `(N, 32, 32)` uint8: a kilobyte each."""
    return np.frombuffer(b"".join(column), np.uint8).reshape(-1, SIDE, SIDE)


def alike(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Say of each pair of small pictures, `(N, 32, 32)` uint8 twice, whether they are alike in every part: `(N,)` bool."""
    return near_hashes.alike(np.ascontiguousarray(ours), np.ascontiguousarray(theirs), NOISE, ALIKE, UNLIKE, ZOOM)
