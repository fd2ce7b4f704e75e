"""The service's limits and the constants that follow from them.

Constants only, no state; safe from any thread.  Sizes are bytes unless the name says otherwise.
Source of each: the OSS documentation ("Limits", "UploadPart", "DeleteMultipleObjects").
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

MAX_KEY_BYTES: Final = 1023
"""An object key is 1 to 1023 bytes of UTF-8."""

MAX_NAME_BYTES: Final = 255
"""NAME_MAX of Linux: one component of a path."""

MIN_PART_SIZE: Final = 100 * KIB
"""Every part of a multipart upload but the last; checked by the service when it completes."""

MAX_PART_SIZE: Final = 5 * GIB
MAX_PARTS: Final = 10_000
MAX_OBJECT_SIZE: Final = MAX_PART_SIZE * MAX_PARTS
"""48.8 TB, by multipart only."""

MAX_PUT_SIZE: Final = 5 * GIB
"""One PutObject."""

MAX_SINGLE_COPY_SIZE: Final = 1_000_000_000
"""CopyObject above this may be refused when class or encryption changes: copy by parts instead."""

LIST_PAGE: Final = 1000
DELETE_BATCH: Final = 1000

MAX_META_BYTES: Final = 8 * KIB
"""Names and values of all x-oss-meta-* headers together must stay below this."""

DEFAULT_CHUNK_SIZE: Final = 10 * MIB
MIN_CHUNK_SIZE: Final = 5 * MIB
"""Ours, as the original driver's; the service's own floor is MIN_PART_SIZE."""
