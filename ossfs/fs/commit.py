"""Carrying out a commit plan: the requests that turn an extent map into an object.

Threading: trio thread only.

Nothing here decides what is written; that is the plan's matter (content.py), nor when, which is the
writer's.  A failure leaves the old object in place; the upload stays, with the parts that went up,
until the writer continues or aborts it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from ossfs.errors import (
    AlreadyExists,
    InvalidRequest,
    NoSuchBucket,
    NoSuchUpload,
    NotFound,
    PreconditionFailed,
    TooLarge,
)
from ossfs.fs import attrs as attributes
from ossfs.fs.attrs import Attrs
from ossfs.fs.content import (
    BaseRange,
    CopyPart,
    MemoryRange,
    Piece,
    Plan,
    PutPart,
    ReusePart,
    SentRange,
    ZeroPart,
    ZeroRange,
)
from ossfs.fs.context import Context, run_all
from ossfs.fs.hidden import HiddenKeys, abort_quietly
from ossfs.fs.inodes import Version
from ossfs.fs.ranges import read_range
from ossfs.fs.stored import acl_to_keep
from ossfs.limits import MAX_PART_SIZE, MAX_SINGLE_COPY_SIZE, MIB
from ossfs.store.base import (
    WRITE_ID,
    Buffer,
    ObjectHeaders,
    PartResult,
    PutResult,
    Replaceable,
    StoredAs,
)

_ZEROS = memoryview(bytes(MIB))

COPY_STEP = 512 * MIB
"""Parts of a copy by parts: large enough to be few, small enough to run side by side."""
PARALLEL_PARTS = 16
"""Parts of one file in flight at a commit: enough to fill the connections at 100 MB/s each."""


@dataclass(slots=True)
class Upload:
    """A multipart upload in progress.  attrs: those that it was initiated with."""

    key: str
    upload_id: str
    write_id: str
    attrs: Attrs
    results: dict[int, PartResult] = field(default_factory=dict)


ReadStaged = Callable[[int, int], Awaitable[bytes]]
"""(file offset, length) to the bytes that were staged there."""


async def fetch(ctx: Context, version: Version, start: int, length: int) -> memoryview:
    """Bytes of one version.  Raises PreconditionFailed when it has been replaced."""
    if length == 0:
        return memoryview(b"")
    view = memoryview(bytearray(length))
    await read_range(ctx, version, start, view)
    return view


def zeros(length: int) -> list[memoryview]:
    """*length* zero bytes that take no memory."""
    pieces = [_ZEROS] * (length // MIB)
    if length % MIB:
        pieces.append(_ZEROS[: length % MIB])
    return pieces


async def gather(
    ctx: Context, pieces: Sequence[Piece], base: Version | None, read_staged: ReadStaged | None
) -> list[Buffer]:
    """The buffers of a body.  What only the base has is fetched."""
    body: list[Buffer] = []
    for piece in pieces:
        match piece:
            case MemoryRange(data=data):
                body.append(data)
            case ZeroRange(length=length):
                body.extend(zeros(length))
            case BaseRange(start=start, length=length):
                assert base is not None
                body.append(await fetch(ctx, base, start, length))
            case SentRange(start=start, length=length):
                assert read_staged is not None, "a plan names sent bytes only when they are staged"
                body.append(await read_staged(start, length))
    return body


async def put_whole(
    ctx: Context,
    key: str,
    plan: Plan,
    base: Version | None,
    attrs: Attrs,
    write_id: str,
    *,
    forbid_overwrite: bool,
    replaceable: Replaceable | None = None,
    read_staged: ReadStaged | None = None,
) -> PutResult:
    """One PutObject for a plan of kind "put"."""
    (part,) = plan.parts
    assert isinstance(part, PutPart)
    body = await gather(ctx, part.pieces, base, read_staged)
    headers = attributes.encode(attrs, write_id=write_id)
    return await ctx.store.put(key, body, headers, forbid_overwrite=forbid_overwrite, replaceable=replaceable)


async def put_parts(
    ctx: Context,
    hidden: HiddenKeys,
    upload: Upload,
    plan: Plan,
    base: Version | None,
    *,
    read_staged: ReadStaged | None = None,
) -> list[PartResult]:
    """All parts of a plan of kind "multipart" that are not there yet; the results, ascending."""
    works: list[Callable[[], object]] = []
    numbers: list[int] = []

    async def put(part: PutPart) -> None:
        body = await gather(ctx, part.pieces, base, read_staged)
        upload.results[part.number] = await ctx.store.put_part(
            upload.key, upload.upload_id, part.number, body
        )

    async def copy(part: CopyPart) -> None:
        assert base is not None
        upload.results[part.number] = await ctx.store.copy_part(
            upload.key,
            upload.upload_id,
            part.number,
            base.key,
            part.start,
            part.length,
            etag=base.etag,
        )

    async def zero(part: ZeroPart) -> None:
        upload.results[part.number] = await put_zeros(ctx, hidden, upload, part)

    for part in plan.parts:
        numbers.append(part.number)
        match part:
            case ReusePart():
                pass
            case PutPart():
                works.append(lambda part=part: put(part))  # type: ignore[misc]
            case CopyPart():
                works.append(lambda part=part: copy(part))  # type: ignore[misc]
            case ZeroPart():
                works.append(lambda part=part: zero(part))  # type: ignore[misc]
    await run_all(PARALLEL_PARTS, works)  # type: ignore[arg-type]
    return [upload.results[number] for number in numbers]


async def put_zeros(ctx: Context, hidden: HiddenKeys, upload: Upload, part: ZeroPart) -> PartResult:
    """A part of nothing but zeros, copied by the server if we can."""
    for _ in range(2):
        source, etag, size = await hidden.zeros(part.length)
        if part.length > size:
            break
        try:
            return await ctx.store.copy_part(
                upload.key, upload.upload_id, part.number, source, 0, part.length, etag=etag
            )
        except (NoSuchBucket, NoSuchUpload):
            raise
        except (NotFound, PreconditionFailed):
            await hidden.lost(source)  # not the base: it must not look as if the file was replaced
    return await ctx.store.put_part(upload.key, upload.upload_id, part.number, zeros(part.length))


async def check_absent_if_versioned(ctx: Context, key: str) -> None:
    """forbid-overwrite does nothing on a versioned bucket: look first.  A race remains.

    Raises AlreadyExists.
    """
    if not ctx.config.versioned:
        return
    try:
        await ctx.store.head(key)
    except NotFound:
        return
    raise AlreadyExists("the name was taken meanwhile", operation="PutObject", key=key)


async def copy_object(
    ctx: Context,
    source: Version,
    key: str,
    attrs: Attrs | None,
    *,
    write_id: str | None = None,
    stored_as: StoredAs | None = None,
    forbid_overwrite: bool = False,
) -> PutResult:
    """Copy one version to *key*, with new attributes if given.

    stored_as: how the copy is kept when no attributes (which carry it) are given.  The ACL, where it is to
    be kept and is not known, is asked for.

    Inside a bucket one CopyObject moves no bytes and takes any size, unless class or encryption change:
    then the service refuses what is large, and the copy is made by parts.  A multipart upload takes
    nothing over from the source, so the attributes, when they were not given, are asked for.
    """
    if attrs is None:
        stored_as = stored_as or StoredAs()
        stored_as = replace(stored_as, acl=stored_as.acl or await acl_to_keep(ctx, source.key))
    elif attrs.carried.acl is None:
        attrs.carried.acl = await acl_to_keep(ctx, source.key)
    headers = None if attrs is None else attributes.encode(attrs, write_id=write_id)
    try:
        return await ctx.store.copy(
            source.key,
            key,
            etag=source.etag or None,
            headers=headers,
            stored_as=stored_as,
            forbid_overwrite=forbid_overwrite,
        )
    except (TooLarge, InvalidRequest):
        if source.size <= MAX_SINGLE_COPY_SIZE:
            raise
    tags = attrs.tag_count if attrs is not None else 0
    if headers is None:
        info = await ctx.store.head(source.key)
        tags = info.tag_count
        # As it is, but for the mtime, which was LastModified if nothing else.
        mtime = attributes.format_time(info.last_modified * attributes.NS)
        headers = replace(info.headers, meta={"mtime": mtime, **info.headers.meta})
        headers.acl = stored_as.acl if stored_as is not None else None
        if write_id is not None:
            headers.meta[WRITE_ID] = write_id
    if tags and headers.tagging is None:
        headers = replace(headers, tagging=await ctx.store.get_tagging(source.key) or None)
    return await _copy_by_parts(ctx, source, key, headers, write_id, forbid_overwrite)


async def _copy_by_parts(
    ctx: Context,
    source: Version,
    key: str,
    headers: ObjectHeaders,
    write_id: str | None,
    forbid_overwrite: bool,
) -> PutResult:
    upload_id = await ctx.store.initiate(key, headers)
    ctx.journal.upload_started(key, upload_id)
    step = min(max(COPY_STEP, -(-source.size // 9000)), MAX_PART_SIZE)
    parts: list[PartResult] = []

    async def one(number: int, start: int) -> None:
        length = min(step, source.size - start)
        parts.append(
            await ctx.store.copy_part(key, upload_id, number, source.key, start, length, etag=source.etag)
        )

    try:
        await run_all(
            PARALLEL_PARTS,
            [
                lambda n=n, s=s: one(n, s)  # type: ignore[misc]
                for n, s in enumerate(range(0, source.size, step), 1)
            ],
        )
        parts.sort(key=lambda p: p.number)
        result = await ctx.store.complete(
            key, upload_id, parts, forbid_overwrite=forbid_overwrite, write_id=write_id
        )
    except BaseException:
        await abort_quietly(ctx, key, upload_id)
        raise
    ctx.journal.upload_ended(key, upload_id)
    if result.crc64 is None:
        result = PutResult(
            result.etag, source.crc64, result.server_date, result.last_modified, result.version_id
        )
    return result
