"""How objects are kept: the options for what is written, and what a copy would lose.

Threading: trio thread only.

Bytes that are written get what the options say (storage class, encryption, ACL); where they say nothing, a
rewrite keeps what the object had, and a new object gets what the bucket says.  A rename or a change of
attributes moves no bytes, and keeps all of it.  The service takes none of it over to a copy, so it is sent
along; it is known from the HEAD, but for the ACL, which is a question of its own.
"""

from __future__ import annotations

import logging
import stat
from dataclasses import replace

from ossfs.errors import AccessDenied, NotFound
from ossfs.fs.attrs import Attrs
from ossfs.fs.context import Context
from ossfs.fs.inodes import FileNode, Version
from ossfs.fs.ports import FsConfig
from ossfs.fs.virtual import is_archived
from ossfs.store.base import ObjectStore, StoredAs

log = logging.getLogger(__name__)

INHERITED = "default"
"""The ACL of an object that has none of its own."""


def written(config: FsConfig, attrs: Attrs, *, fresh: bool) -> None:
    """Bytes are going to be written: their object is kept as the options say.

    fresh: there is no object yet, so none whose ACL could be lost.
    """
    options = config.written
    if attrs.kind == stat.S_IFLNK and is_archived(options.storage_class or ""):
        options = replace(options, storage_class=None)  # a target that cannot be read is no link
    attrs.carried = options.over(attrs.carried)
    if fresh and attrs.carried.acl is None:
        attrs.carried.acl = INHERITED


async def rewritten(ctx: Context, node: FileNode, old: Version | None) -> None:
    """`written` for a file whose object, *old*, is replaced."""
    assert node.attrs is not None
    acl = node.attrs.carried.acl or ctx.config.written.acl
    if acl is None and old is not None:
        acl = await acl_to_keep(ctx, old.key)
    assert node.attrs is not None
    written(ctx.config, node.attrs, fresh=old is None)
    node.attrs.carried.acl = node.attrs.carried.acl or acl


async def acl_to_keep(ctx: Context, key: str) -> str | None:
    """The ACL that a copy of *key* is to get; None when it is not to be kept, or is not known.

    Keys that may not ask are told of once, and not tried again.
    """
    if not ctx.config.keep_acl or ctx.acl_refused:
        return None
    try:
        return await ctx.store.get_acl(key)
    except NotFound:
        return None  # whoever copies it hears of that
    except AccessDenied as error:
        ctx.acl_refused = True
        log.warning("ACLs of objects are lost when they are changed or renamed: %s", error)
        return None


def stored_as(node: FileNode, attrs: Attrs | None = None) -> StoredAs:
    """How a file's object is kept, as far as is known: for a copy that takes its metadata over.

    attrs: what a HEAD just said, where the inode does not know it.
    """
    attrs = node.attrs or attrs
    known = StoredAs.of(attrs.carried) if attrs is not None else StoredAs()
    return replace(known, storage_class=node.storage_class or known.storage_class)


async def saved_as(store: ObjectStore, key: str) -> StoredAs:
    """How the object is kept now, as a HEAD says it: not its ACL.  Raises NotFound."""
    return StoredAs.of((await store.head(key)).headers)


async def put_back(store: ObjectStore, saved: str, key: str) -> None:
    """Copy what was saved from *key* to it, and keep it as it was kept.  Raises NotFound."""
    kept = await saved_as(store, saved)
    try:
        kept = replace(kept, acl=await store.get_acl(saved))
    except AccessDenied as error:
        log.warning("%s is put back without its ACL: %s", key, error)
    await store.copy(saved, key, stored_as=kept)
