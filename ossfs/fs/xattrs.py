"""Extended attributes, call by call: kept in one metadata header of the object, as ossfs 1.x does.

Those of virtual.py are answered from what the service says of the object.

Threading: trio thread only.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from ossfs.errors import PosixError
from ossfs.fs import attrs as attributes
from ossfs.fs import virtual
from ossfs.fs.attrs import Attrs
from ossfs.fs.context import Context
from ossfs.fs.inodes import DirNode, FileNode, Node
from ossfs.fs.lookup import Lookup
from ossfs.fs.setattrs import AttributeStore


class ExtendedAttributes:
    """The part of a Tree that answers getxattr(2) and its relatives."""

    ctx: Context
    look: Lookup
    attributes: AttributeStore

    if TYPE_CHECKING:

        def check_writable(self) -> None: ...

        async def set_attrs(
            self, node: FileNode, edit: Callable[[Attrs], None], *, soon: bool = False
        ) -> None: ...

    async def getxattr(self, ino: int, raw: bytes) -> bytes:
        """Raises ENODATA.  security.* and system.* are answered without asking anybody: every write
        brings a question for security.capability."""
        if not raw.startswith((b"user.", b"trusted.")):
            raise PosixError(errno.ENODATA)
        node = self.look.node(ino)
        if raw in virtual.NAMES:
            return await virtual.value_of(self.ctx, node, raw)
        attrs = await self._attrs(node)
        try:
            return attrs.xattrs[raw.decode()]
        except (KeyError, UnicodeDecodeError):
            raise PosixError(errno.ENODATA) from None

    async def listxattr(self, ino: int, *, privileged: bool = True) -> list[bytes]:
        """The names, virtual ones left out; those of trusted. only for root, who alone can read them."""
        attrs = await self._attrs(self.look.node(ino))
        names = [name.encode() for name in attrs.xattrs]
        return [n for n in names if n not in virtual.NAMES and (privileged or not n.startswith(b"trusted."))]

    async def setxattr(self, ino: int, raw: bytes, value: bytes) -> None:
        """Raises ENOTSUP for names outside user. and trusted., ENOSPC over the 8 KiB of metadata.

        EPERM for user.oss.*: ENOTSUP would tell tools that there are no attributes here at all.
        """
        self.check_writable()
        self._check_not_virtual(raw)
        if not raw.startswith((b"user.", b"trusted.")):
            raise PosixError(errno.ENOTSUP)
        if self.ctx.config.attrs_list:
            raise PosixError(errno.ENOTSUP, "attributes are not stored on a mount with attrs=list")
        if raw.endswith(b".") and raw.count(b".") == 1:
            raise PosixError(errno.EINVAL, "no name after the namespace")
        node = self.look.node(ino)
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise PosixError(errno.EINVAL, "the name of the attribute is not UTF-8") from None
        await self._attrs(node)

        def edit(attrs: Attrs) -> None:
            attrs.xattrs = {**attrs.xattrs, name: value}
            attrs.ctime_ns = self.ctx.wall_ns()

        assert node.attrs is not None
        trial = node.attrs.copy()
        edit(trial)
        if not attributes.fits(trial):
            raise PosixError(errno.ENOSPC, "the attributes take more than 8 KiB")
        await self._change(node, edit)

    async def removexattr(self, ino: int, raw: bytes) -> None:
        """Raises ENODATA, and EPERM for user.oss.*."""
        self.check_writable()
        self._check_not_virtual(raw)
        node = self.look.node(ino)
        attrs = await self._attrs(node)
        name = raw.decode("utf-8", "surrogateescape")
        if name not in attrs.xattrs:
            raise PosixError(errno.ENODATA)

        def edit(attrs: Attrs) -> None:
            attrs.xattrs = {k: v for k, v in attrs.xattrs.items() if k != name}
            attrs.ctime_ns = self.ctx.wall_ns()

        await self._change(node, edit)

    @staticmethod
    def _check_not_virtual(raw: bytes) -> None:
        if raw.startswith(virtual.PREFIX):
            raise PosixError(errno.EPERM, "user.oss.* is what the service says of the object: read-only")

    async def _change(self, node: Node, edit: Callable[[Attrs], None]) -> None:
        if isinstance(node, DirNode):
            await self.attributes.store_dir_attrs(node, edit)
        else:
            assert isinstance(node, FileNode)
            await self.set_attrs(node, edit)

    async def _attrs(self, node: Node) -> Attrs:
        await self.look.getattr(node)
        assert node.attrs is not None
        return node.attrs
