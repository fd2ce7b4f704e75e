"""Which requests the service charges for, and an estimate of what they cost.

Threading: no state; from anywhere.

The classes are those of the service's documentation ("Request fees", as of March 2026): uploads, copies,
deletions and listings are PUT requests, all else that is read is a GET request; answers of 4xx and 5xx are
free.  Prices differ by region, class of storage and contract, and are not known here: who wants an estimate
gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

PriceClass: TypeAlias = Literal["put", "get"]

PER: Final = 10_000
"""Prices are for so many requests, as in the service's price list."""


def price_class(operation: str) -> PriceClass:
    """The class of a call, by its name in the service's documentation."""
    return "get" if operation.startswith(("Get", "Head")) else "put"


def count_classes(answered: Mapping[str, int]) -> dict[PriceClass, int]:
    """Requests by class, from requests by operation."""
    counts: dict[PriceClass, int] = {"put": 0, "get": 0}
    for operation, count in answered.items():
        counts[price_class(operation)] += count
    return counts


def estimate(counts: Mapping[PriceClass, int], prices: Mapping[PriceClass, float]) -> float | None:
    """What so many requests cost, in the money that the prices are in; None when no price is known."""
    if not any(prices.values()):
        return None
    return sum(count * prices[kind] for kind, count in counts.items()) / PER
