"""More of what is done in a local directory and in a mount: who may do what, in every combination.

These are the matrices of pjdfstest (open/06 and 07, chmod/12, rename/09 and 10, unlink/11, rmdir/06 and 11,
mkdir, mkfifo, mknod and symlink/05 and 06, truncate and ftruncate/05 and 06), in the language of worker.py.
"""

from __future__ import annotations

from typing import Final

WHO: Final = {"u1": 6, "u3": 3, "u2": 0}
"""Owner, member of the group, and everybody else: the shift of their bits.  Files belong to 1001:1001."""


def permissions() -> dict[str, list[str]]:
    return {**_opening(), **_directories(), **_sticky(), **_prefixes(), **_not_empty(), **_truncating()}


def _opening() -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for who, shift in WHO.items():
        lines = ["create f 600 abc", "chown f 1001 1001"]
        for bits in range(8):
            # What the other classes may do does not help: the first class that fits decides.
            for mode in (bits << shift, 0o777 & ~(7 << shift) | bits << shift):
                lines.append(f"chmod f {mode:o}")
                for flags in ("RDONLY", "WRONLY", "RDWR", "RDONLY|TRUNC", "WRONLY|APPEND", "RDONLY|CREAT"):
                    lines.append(f"{who} open f {flags}")
                lines += [f"{who} access f {way} effective" for way in "rwx"]
        made[f"open as {who}"] = lines
    return made


def _directories() -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for who, shift in WHO.items():
        for bits in range(8):
            mode = 0o777 & ~(7 << shift) | bits << shift
            made[f"directory of {bits} as {who}"] = [
                "umask 0",
                "mkdir d 777",
                "create d/f 666 abc",
                "mkdir d/sub 777",
                "symlink f d/l",
                "mkdir e 777",
                "create e/g 666 def",
                "chown d 1001 1001",
                f"chmod d {mode:o}",
                f"{who} ls d",
                f"{who} chdir d",
                f"{who} open d/f RDONLY",
                f"{who} open d/l RDONLY",
                f"{who} readlink d/l",
                f"{who} open d/new CREAT|WRONLY 644",
                f"{who} mkdir d/made",
                f"{who} mkfifo d/pipe",
                f"{who} symlink x d/link",
                f"{who} mknod d/node FREG 644",
                f"{who} bind d/socket",
                f"{who} chmod d/f 600",
                f"{who} chown d/f 1001 1001",
                f"{who} truncate d/f 2",
                f"{who} utimens d/f now now",
                f"{who} setxattr d/f user.a b",
                f"{who} getxattr d/f user.a",
                f"{who} rename d/f d/h",
                f"{who} rename d/h e/h",
                f"{who} rename e/g d/g",
                f"{who} rename d/sub e/sub",
                f"{who} noreplace e/sub d/sub",
                f"{who} rmdir d/sub",
                f"{who} unlink d/l",
            ]
    return made


def _sticky() -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for kind, create in (("file", "create {} 644 x"), ("dir", "mkdir {} 755"), ("link", "symlink x {}")):
        remove = "rmdir" if kind == "dir" else "unlink"
        for top in (0, 1001, 1002):
            for owner in (0, 1001, 1002):
                made[f"sticky {kind} of {owner} below {top}"] = [
                    "mkdir s 1777",
                    "mkdir t 777",
                    f"chown s {top} {top}",
                    "chmod s 1777",
                    "chmod t 777",
                    *[line for name in ("s/a", "s/b", "s/c") for line in (create.replace("{}", name),)],
                    *[f"lchown s/{name} {owner} {owner}" for name in "abc"],
                    f"u1 {create.replace('{}', 't/mine')}",
                    "u1 rename s/a s/d",
                    "u1 rename s/a t/a",
                    "u1 rename t/mine s/b",
                    f"u1 {remove} s/c",
                    f"u1 {remove} s/b",
                    "chmod s 777",
                    f"u1 {remove} s/b",
                ]
    return made


def _prefixes() -> dict[str, list[str]]:
    """A component that is no directory, or cannot be searched, before whatever is asked for."""
    made: dict[str, list[str]] = {}
    calls = (
        "chmod {} 644|chown {} 0 0|lchown {} 0 0|truncate {} 0|open {} RDONLY|open {} CREAT|WRONLY|mkdir {}"
        "|mkfifo {}|mknod {} FREG 644|symlink x {}|rename {} x|rename other {}|rename d {}|unlink {}|rmdir {}"
        "|utimens {} 1 1|readlink {}|access {} f|setxattr {} user.a b|listxattr {}|link {} x|link other {}"
        "|ls {}"
    )
    words = calls.replace("CREAT|WRONLY", "CREAT+WRONLY").split("|")
    for kind, line in {
        "file": "create p 644",
        "fifo": "mkfifo p",
        "socket": "bind p",
        "node": "mknod p FCHR 600 1 3",
        "dangling": "symlink nowhere p",
        "loop": "symlink p p",
        "closed": "mkdir p 700",
    }.items():
        made[f"prefix {kind}"] = ["create other 666", "mkdir d", line, "chmod . 777"]
        for who in ("", "u1 "):
            for word in words:
                call = word.replace("+", "|").replace("{}", "p/x")
                if call.startswith("readlink") and kind == "loop":
                    continue
                if who or kind != "closed":
                    made[f"prefix {kind}"].append(who + call)
    return made


def _not_empty() -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for kind, line in {
        "file": "create d/x 644",
        "dir": "mkdir d/x",
        "fifo": "mkfifo d/x",
        "link": "symlink y d/x",
        "socket": "bind d/x",
        "node": "mknod d/x FBLK 600 7 1",
    }.items():
        remove = "rmdir" if kind == "dir" else "unlink"
        made[f"not empty: {kind}"] = [
            "mkdir d",
            "mkdir e",
            line,
            "rmdir d",
            "rename e d",
            f"{remove} d/x",
            "rename e d",
            "ls d",
            "rmdir d",
        ]
    return made


def _truncating() -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for who, shift in WHO.items():
        lines = ["create f 600 abcdef", "chown f 1001 1001"]
        for bits in (0, 2, 4, 6):
            lines += [
                f"chmod f {0o600 & ~(7 << shift) | bits << shift:o}",
                f"{who} truncate f 3",
                f"{who} fd f WRONLY truncate 5",
                f"{who} fd f RDWR truncate 2",
                f"{who} fd f RDONLY truncate 1",
                f"{who} fd f WRONLY fallocate 0 9",
            ]
        made[f"truncate as {who}"] = lines
    return made
