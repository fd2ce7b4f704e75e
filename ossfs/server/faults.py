"""Scripted faults: which request goes wrong, and how.

A rule matches an operation name ("*": every one), optionally a substring of the key and a part number.
Of the requests it matches it lets `skip` pass, then fires on `count` (-1: all), each with
probability `rate` from its own seeded generator, so that a script gives the same run twice.

Threads: `plan` is called by all of them under a lock; a `Plan` belongs to one request.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

ACTIONS = frozenset({"status", "delay", "reset", "cut", "lose", "flip", "stall", "slow"})
OPERATIONS = frozenset(
    """
    Get Head ObjectMeta GetSymlink Put Append Symlink Copy Delete DeleteMulti List ListBuckets
    Initiate UploadPart UploadPartCopy Complete Abort ListUploads ListParts
    BucketInfo Location BucketAcl Stat LiveChannels Versioning PutBucket PutBucketAcl DeleteBucket HeadBucket
    GetTagging PutTagging DeleteTagging GetAcl PutAcl Restore
    """.split()
)
_TYPES: dict[str, tuple[type, ...]] = {
    "op": (str,),
    "key": (str,),
    "part": (int,),
    "skip": (int,),
    "count": (int,),
    "rate": (int, float),
    "seed": (int,),
    "action": (str,),
    "status": (int,),
    "code": (str,),
    "message": (str,),
    "seconds": (int, float),
    "after": (int,),
    "bytes_per_second": (int, float),
}


@dataclass
class Rule:
    """One line of the script."""

    action: str
    op: str = "*"
    key: str = ""
    part: int | None = None
    skip: int = 0
    count: int = 1
    rate: float = 1.0
    seed: int = 0
    status: int = 503
    code: str = ""
    message: str = ""
    seconds: float = 1.0
    after: int = 0
    bytes_per_second: float = 1024
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # nosec B311 # faults that can be repeated, no secrets

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Rule:
        """ValueError names what is wrong, since a fault that silently never fires makes a test worthless."""
        for name, value in data.items():
            if name not in _TYPES:
                raise ValueError(f"a fault has no {name!r}; it has {', '.join(sorted(_TYPES))}")
            if not isinstance(value, _TYPES[name]) and not (name == "part" and value is None):
                raise ValueError(f"{name!r} of a fault can't be {value!r}")
        if data.get("action") not in ACTIONS:
            raise ValueError(f"the action of a fault is one of {', '.join(sorted(ACTIONS))}")
        if data.get("op", "*") not in OPERATIONS | {"*"}:
            raise ValueError(f"the op of a fault is * or one of {', '.join(sorted(OPERATIONS))}")
        return cls(**data)

    def fires(self, op: str, key: str, part: int | None) -> bool:
        """Whether it hits this request; counts it."""
        if self.op not in ("*", op) or self.key not in key or (self.part is not None and part != self.part):
            return False
        if not self.count:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.rate < 1.0 and self.random.random() >= self.rate:
            return False
        if self.count > 0:
            self.count -= 1
        return True


@dataclass
class Plan:
    """What happens to one request."""

    delay: float = 0.0
    bandwidth: float = 0.0
    # The rule that ends or spoils the request: every action but delay and slow.
    rule: Rule | None = None

    def is_action(self, action: str) -> bool:
        """Whether that is what goes wrong."""
        return self.rule is not None and self.rule.action == action


_NOTHING = Plan()


class Faults:
    """The script in force."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def replace(self, rules: Sequence[dict[str, Any]]) -> None:
        """A new script; the old one is forgotten."""
        parsed = [Rule.from_dict(rule) for rule in rules]
        with self._lock:
            self._rules = parsed

    def plan(self, op: str, key: str, part: int | None) -> tuple[Plan, list[str]]:
        """What happens to this request, and the actions that fired.

        Delays and slowness add up; the first other rule that fires is the last one looked at.
        """
        if not self._rules:
            return _NOTHING, []
        plan, fired = Plan(), []
        with self._lock:
            for rule in self._rules:
                if not rule.fires(op, key, part):
                    continue
                fired.append(rule.action)
                if rule.action == "delay":
                    plan.delay += rule.seconds
                elif rule.action == "slow":
                    plan.bandwidth = rule.bytes_per_second
                else:
                    plan.rule = rule
                    break
        return plan, fired
