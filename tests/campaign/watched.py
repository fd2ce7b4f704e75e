"""SQLite, watched: what each of its reads must return, byte for byte, or an error.

SQLite tells programs of an EIO from read(2) as SQLITE_CORRUPT, "database disk image is malformed", as if
the file were damaged, so what it says is no proof of wrong bytes.  Here its calls pass through a layer
that knows what the files hold: what was written through the descriptor, over one of the contents that
the file may have had when it was opened.  A write, truncation or deletion that failed leaves both.

Threading: one thread.
"""

from __future__ import annotations

from typing import Any

import apsw

NAME = "watched"
MOST = 64
"""Contents of a file that are told apart: more come together only while nothing succeeds."""


class Files:
    """What the files may hold, by path.  A name that is not there holds nothing."""

    def __init__(self) -> None:
        self.contents: dict[str, list[bytes]] = {}
        self.refused = 0
        """Reads that ended in an error."""
        self.wrong: list[str] = []
        """Reads that returned what no content explains."""
        self.reads = 0

    def of(self, path: str) -> list[bytes]:
        """All contents that it may have."""
        return self.contents.setdefault(path, [b""])

    def may_be(self, path: str, content: bytes) -> None:
        """This content too, from now on."""
        known = self.of(path)
        if content not in known:
            known.append(content)
            del known[:-MOST]


class WatchedFile(apsw.VFSFile):
    """One descriptor."""

    def __init__(self, name: Any, flags: list[int], files: Files) -> None:
        super().__init__("", name, flags)
        self._files = files
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._possible = [bytearray(content) for content in files.of(self._path)]
        """Those that the reads so far leave possible, with what was written here since."""
        self._written = False

    def xRead(self, amount: int, offset: int) -> bytes:
        """pread(2)."""
        files = self._files
        files.reads += 1
        try:
            data = super().xRead(amount, offset)
        except Exception:
            files.refused += 1
            raise
        # The layer below fills a short read with zeros, and may cut them off again.
        fitting = [known for known in self._possible if _same(known[offset : offset + amount], data)]
        if fitting:
            self._possible = fitting
        else:
            files.wrong.append(f"{self._path}: {amount} bytes at {offset} are none of {len(self._possible)}")
        return data

    def xWrite(self, data: bytes, offset: int) -> None:
        """pwrite(2)."""
        super().xWrite(data, offset)
        self._written = True
        for known in self._possible:
            known.extend(bytes(max(0, offset - len(known))))
            known[offset : offset + len(data)] = data

    def xTruncate(self, size: int) -> None:
        """ftruncate(2)."""
        super().xTruncate(size)
        self._written = True
        for known in self._possible:
            del known[size:]
            known.extend(bytes(size - len(known)))

    def xFileSize(self) -> int:
        """fstat(2)."""
        size = super().xFileSize()
        fitting = [known for known in self._possible if len(known) == size]
        if fitting:
            self._possible = fitting
        else:
            sizes = sorted({len(known) for known in self._possible})
            self._files.wrong.append(f"{self._path}: {size} bytes long, not {sizes}")
        return size

    def xSync(self, flags: int) -> None:
        """fsync(2): when it succeeds, the content is the only one."""
        if self._written:
            self._keep()
        super().xSync(flags)
        self._files.contents[self._path] = []
        self._keep()
        self._written = False

    def xClose(self) -> None:
        """close(2) writes back what no fsync did, and SQLite does not ask whether that went well."""
        if self._written:
            self._keep()
        super().xClose()

    def _keep(self) -> None:
        for known in self._possible:
            self._files.may_be(self._path, bytes(known))


class Watched(apsw.VFS):
    """SQLite's own layer, with eyes."""

    def __init__(self, files: Files) -> None:
        super().__init__(NAME, "")
        self._files = files

    def xOpen(self, name: Any, flags: list[int]) -> WatchedFile:
        """open(2)."""
        return WatchedFile(name, flags, self._files)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """unlink(2), and fsync(2) of the directory."""
        super().xDelete(filename, syncdir)
        if syncdir:
            self._files.contents[filename] = [b""]
        else:
            self._files.may_be(filename, b"")


def _same(known: bytearray, data: bytes) -> bool:
    return bytes(known).rstrip(b"\0") == data.rstrip(b"\0")
