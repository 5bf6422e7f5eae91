"""Numba kernel of the sky correction: sums of usable pixels in bins."""

import math

from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def sum_bins(
    image, background, mask, bits, rows, columns, skip, skip_rows, skip_columns, total, number
):
    """Add the usable pixels of an image to their bins.

    image: (ny, nx) float32; background: the same, added to it, or (0, 0); mask (ny, nx) int32:
    pixels with any of bits are left out, as are those that are not finite. rows (ny,), columns
    (nx,) int64: bin of each row and column in total and number (my, mx) float64. skip: (ky, kx)
    bool, bins to leave out, numbered by skip_rows and skip_columns; or (0, 0).
    """
    ny, nx = image.shape
    has_background = background.shape[0] > 0
    has_skip = skip.shape[0] > 0
    for y in range(ny):
        f, m = image[y], mask[y]
        sums, counts = total[rows[y]], number[rows[y]]
        for x in range(nx):
            if (m[x] & bits) != 0:
                continue
            if has_skip and skip[skip_rows[y], skip_columns[x]]:
                continue
            v = f[x] + background[y, x] if has_background else f[x]
            if math.isfinite(v):
                k = columns[x]
                sums[k] += v
                counts[k] += 1.0
