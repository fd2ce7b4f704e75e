"""CRC-64/XZ: over bytes, and of two pieces joined. Stateless but for caches; safe in every thread."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import fastcrc

_crc64_xz: Any = fastcrc.crc64.xz
_POLY = 0xC96C5795D7870F42  # reflected form of 0x42F0E1EBA9EA3693
_ONE = 1 << 63  # the polynomial 1 in reflected form


def crc64(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """The CRC of what came before (`initial`) and `data`."""
    result: int = _crc64_xz(data, initial)
    return result


def _multiply(a: int, b: int) -> int:
    """a * b modulo the polynomial, both reflected."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFFFFFFFFFF
        b = (b >> 1) ^ _POLY if b & 1 else b >> 1
    return product


@lru_cache(maxsize=70)
def _square_power(k: int) -> int:
    """x^(2^k)."""
    if k == 0:
        return _ONE >> 1
    half = _square_power(k - 1)
    return _multiply(half, half)


@lru_cache(maxsize=1024)
def _shift_operator(length: int) -> int:
    """x^(8 * length): what `length` zero bytes do to a CRC. Cached, since parts come in equal sizes."""
    result, k, n = _ONE, 3, length
    while n:
        if n & 1:
            result = _multiply(_square_power(k), result)
        n >>= 1
        k += 1
    return result


def combine(first: int, second: int, second_length: int) -> int:
    """The CRC of two pieces in a row from the CRC of each."""
    return _multiply(_shift_operator(second_length), first) ^ second
