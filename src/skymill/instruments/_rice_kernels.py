"""Numba kernels of Rice-compressed images: rows of quantized or integer pixels."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def decode_row(data, first, last, block, width_bits, bits_of_split, largest_split, out):
    """Rice-decode the first out.size pixels of a tile from bytes [first, last).

    data: uint8. block: pixels of a block. width_bits: bits of a pixel; bits_of_split,
    largest_split: of the format for this width. out: int64. Returns False if the bytes end early.
    """
    bytes_of_pixel = width_bits // 8
    at = first
    if at + bytes_of_pixel > last:
        return False
    value = np.int64(0)
    for _ in range(bytes_of_pixel):
        value = (value << 8) | data[at]
        at += 1
    limit = np.int64(1) << width_bits
    half = limit >> 1
    if width_bits > 8 and value >= half:
        value -= limit
    store = np.uint64(0)  # The lowest `n` bits are the next of the stream.
    n = 0
    k = 0
    while k < out.size:
        while n < bits_of_split:
            if at >= last:
                return False
            store = (store << np.uint64(8)) | np.uint64(data[at])
            at += 1
            n += 8
        n -= bits_of_split
        split = np.int64(store >> np.uint64(n)) - 1
        store &= (np.uint64(1) << np.uint64(n)) - np.uint64(1)
        end = min(k + block, out.size)
        if split < 0:
            while k < end:
                out[k] = value
                k += 1
            continue
        while k < end:
            if split == largest_split:
                high, low_bits = np.int64(0), width_bits
            else:
                high, low_bits = np.int64(0), split
                while store == 0:
                    # All bits at hand are zeros of the unary part.
                    high += n
                    if at >= last:
                        return False
                    store = np.uint64(data[at])
                    at += 1
                    n = 8
                while (store >> np.uint64(n - 1)) == 0:
                    high += 1
                    n -= 1
                n -= 1
                store &= (np.uint64(1) << np.uint64(n)) - np.uint64(1)
            while n < low_bits:
                if at >= last:
                    return False
                store = (store << np.uint64(8)) | np.uint64(data[at])
                at += 1
                n += 8
            n -= low_bits
            step = (high << low_bits) | np.int64(store >> np.uint64(n))
            store &= (np.uint64(1) << np.uint64(n)) - np.uint64(1)
            value += (step >> 1) if (step & 1) == 0 else ~(step >> 1)
            # Differences wrap around at the width of a pixel.
            value &= limit - 1
            if width_bits > 8 and value >= half:
                value -= limit
            out[k] = value
            k += 1
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def decode_floats(
    data, offsets, sizes, tiles, left, block, scale, zero, blank, dither, seed, randoms, out
):  # fmt: skip
    """Rows of quantized pixels; returns the first row whose bytes end early, or -1.

    offsets, sizes (n,) int64: bytes of each row in data; rows of size 0 are left out. tiles (n,)
    int64: their numbers, from 0. left: first column of out (n, m) float32. scale, zero (n,):
    quantization. blank: value of an unknown pixel. dither: 0 none, 1 and 2 subtractive, of which
    the second keeps zeros. seed: number of the first random value, from 1; randoms (10000,).
    """
    row = np.empty(left + out.shape[1], np.int64)
    for i in range(out.shape[0]):
        if sizes[i] == 0:
            continue
        if not decode_row(data, offsets[i], offsets[i] + sizes[i], block, 32, 5, 25, row):
            return i
        start = (tiles[i] + seed - 1) % randoms.size
        at = np.int64(randoms[start] * 500.0)
        for x in range(row.size):
            q = row[x]
            if x >= left:
                if q == blank:
                    out[i, x - left] = np.nan
                elif dither == 2 and q == -2147483646:
                    out[i, x - left] = 0.0
                elif dither > 0:
                    out[i, x - left] = (q - np.float64(randoms[at]) + 0.5) * scale[i] + zero[i]
                else:
                    out[i, x - left] = q * scale[i] + zero[i]
            at += 1
            if at == randoms.size:
                start = (start + 1) % randoms.size
                at = np.int64(randoms[start] * 500.0)
    return -1


@njit(cache=True, nogil=True, error_model="numpy")
def decode_integers(
    data, offsets, sizes, left, block, width_bits, bits_of_split, largest_split, out
):  # fmt: skip
    """Rows of integers into out (n, m) int32; returns the first whose bytes end early, or -1."""
    row = np.empty(left + out.shape[1], np.int64)
    for i in range(out.shape[0]):
        last = offsets[i] + sizes[i]
        if not decode_row(
            data, offsets[i], last, block, width_bits, bits_of_split, largest_split, row
        ):
            return i
        for x in range(out.shape[1]):
            out[i, x] = row[left + x]
    return -1
