"""When somebody else replaced the object that we were changing: our bytes are kept beside it.

Threading: trio thread only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator

from ossfs import limits
from ossfs.errors import AlreadyExists, OssfsError
from ossfs.fs import attrs as attributes
from ossfs.fs.commit import Upload, put_parts, put_whole
from ossfs.fs.content import Content, MemoryRange, PlanLimits, SentRange, ZeroRange
from ossfs.fs.context import Context
from ossfs.fs.hidden import HiddenKeys, abort_quietly
from ossfs.fs.inodes import FileNode
from ossfs.fs.stored import written

log = logging.getLogger(__name__)


MOST_COPIES = 100
"""Of one file in one second, before it is said that ours cannot be kept."""


def conflict_names(above: str, name: str, host: str, when: int, word: str = "conflict") -> Iterator[str]:
    """NAME.conflict-HOST-TIME, and others to be tried when that is taken; TIME is UTC, so that names sort.

    At most 255 bytes, and 1023 of the key, which begins with *above*.

    >>> names = conflict_names("d/", "a.txt", "h", 0)
    >>> next(names), next(names)
    ('a.txt.conflict-h-19700101T000000Z', 'a.txt.conflict-h-19700101T000000Z-2')
    """
    suffix = f".{word}-{host}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(when))}"
    most = min(limits.MAX_NAME_BYTES, limits.MAX_KEY_BYTES - len(above.encode()))
    for number in range(1, MOST_COPIES + 1):
        ending = suffix if number == 1 else f"{suffix}-{number}"
        room = max(0, most - len(ending.encode()))
        yield name.encode()[:room].decode("utf-8", "ignore") + ending


async def keep_conflict(
    ctx: Context,
    hidden: HiddenKeys,
    node: FileNode,
    content: Content,
    read_staged: Callable[[SentRange], Awaitable[bytes | None]],
    cause: Exception,
) -> bool:
    """Put what this machine holds of the file under a name of its own.

    Ranges that only the replaced object, or the upload under the old name, holds are zero there, and
    the log lists them.  False: it could not be kept.
    """
    parent = node.parent
    if parent is None or node.attrs is None:
        return False
    kept = Content()
    lost: list[tuple[int, int]] = []
    at = 0
    for piece in content.read(0, content.size):
        if isinstance(piece, MemoryRange):
            kept.write(at, piece.data)
            at += len(piece.data)
            continue
        if isinstance(piece, SentRange):
            data = await read_staged(piece)
            if data is not None:
                kept.write(at, data)
            else:
                lost.append((at, piece.length))
        elif not isinstance(piece, ZeroRange):
            lost.append((at, piece.length))
        at += piece.length
    if kept.size < content.size:
        kept.truncate(content.size)
    above = ctx.inodes.key(parent)
    for name in conflict_names(above, node.name, ctx.config.hostname, ctx.wall_ns() // 10**9):
        try:
            await _put(ctx, hidden, above + name, kept, node)
            break
        except AlreadyExists:
            continue  # of an earlier conflict in this second, here or through another mount of this host
        except OssfsError as error:
            log.error("the conflicting version of %s could not be kept: %s", node.name, error)
            return False
    else:
        log.error("the conflicting version of %s could not be kept: too many in one second", node.name)
        return False
    parent.cache.forget(name)
    log.error(
        "%s was replaced by somebody else (%s); our version is kept as %s; ranges that only the replaced "
        "object or the upload held are zero there: %s",
        node.name,
        type(cause).__name__,
        name,
        ", ".join(f"{start}+{length}" for start, length in lost) or "none",
    )
    return True


async def _put(ctx: Context, hidden: HiddenKeys, key: str, content: Content, node: FileNode) -> None:
    assert node.attrs is not None
    plan = content.plan(PlanLimits(chunk_size=ctx.config.chunk_size, min_part=ctx.config.min_part))
    write_id = attributes.new_write_id()
    attrs = node.attrs.copy()
    written(ctx.config, attrs, fresh=True)
    if plan.kind == "put":
        await put_whole(ctx, key, plan, None, attrs, write_id, forbid_overwrite=True)
        return
    upload_id = await ctx.store.initiate(key, attributes.encode(attrs, write_id=write_id))
    ctx.journal.upload_started(key, upload_id)
    upload = Upload(key, upload_id, write_id, attrs)
    try:
        parts = await put_parts(ctx, hidden, upload, plan, None)
        await ctx.store.complete(key, upload_id, parts, forbid_overwrite=True, write_id=write_id)
    except BaseException:
        await abort_quietly(ctx, key, upload_id)
        raise
    ctx.journal.upload_ended(key, upload_id)
