"""What is done in a local directory and in a mount; see worker.py for the calls."""

from __future__ import annotations

from typing import Final

LONG: Final = "n" * 255
OVER: Final = "n" * 256

MAKE: Final = {
    "file": ["create {} 644 abc"],
    "empty": ["create {} 600"],
    "dir": ["mkdir {}"],
    "full": ["mkdir {}", "create {}/inside 644"],
    "link": ["symlink nowhere {}"],
    "dirlink": ["mkdir {}.d", "symlink {}.d {}"],
    "fifo": ["mkfifo {}"],
    "char": ["mknod {} FCHR 640 1 3"],
    "block": ["mknod {} FBLK 640 7 200"],
    "socket": ["bind {}"],
}


def make(kind: str, path: str) -> list[str]:
    return [line.replace("{}", path) for line in MAKE[kind]]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def cases() -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for kind in MAKE:
        made[f"each-{kind}"] = make(kind, "f") + lines("""
            chmod f 751
            chmod f 7777
            lchown f 1001 1001
            lchown f -1 -1
            chown f 1002 5000
            u1 chmod f 700
            u2 chmod f 700
            u2 chmod f 2770
            u2 chown f 1002 5000
            u2 chown f 1002 1002
            u2 chown f 1001 -1
            u2 utimens f 100.5 200.000000007
            lutimens f 100.5 200.000000007
            times f
            lutimens f omit 300
            times f
            lutimens f 400 omit
            times f
            lutimens f omit omit
            times f
            lutimens f now now
            times f
            u1 lutimens f now now
            u1 lutimens f 1 1
            truncate f 2
            open f RDONLY|NONBLOCK
            open f WRONLY|NONBLOCK
            open f RDWR|NONBLOCK
            open f RDONLY|NOFOLLOW|NONBLOCK
            open f RDONLY|DIRECTORY|NONBLOCK
            open f CREAT|EXCL|WRONLY
            open f CREAT|RDWR|NONBLOCK 600
            u1 open f RDONLY|NONBLOCK
            connect f
            mkdir f
            mkfifo f
            bind f
            symlink x f
            mknod f FCHR 600 1 3
            mkdir f/x
            create f/x 600
            unlink f/x
            rmdir f/x
            rename f/x y
            chmod f/x 600
            truncate f/x 1
            symlink z f/x
            mkfifo f/x
            access f r
            u1 access f rw
            u1 access f f effective
            setxattr f user.a b
            getxattr f user.a
            readlink f
            rename f g
            noreplace g g
            rename g g
            noreplace g f
            rmdir f
            unlink f
            rmdir f
            """)
        for other in MAKE:
            made[f"rename-{kind}-{other}"] = [
                "mkdir a",
                "mkdir b",
                *make(kind, "a/f"),
                *make(other, "b/g"),
                "noreplace a/f b/g",
                "rename a/f b/g",
                "rename a/f b/g",
                "ls a",
            ]
        made[f"sticky-{kind}"] = [
            "mkdir s 1777",
            "chown s 1001 1001",
            "chmod s 1777",
            *make(kind, "s/f"),
            "lchown s/f 1002 1002",
            "u3 rename s/f s/g",
            "u3 rename s/f g",
            "u3 unlink s/f",
            "u3 rmdir s/f",
            *[f"u3 {line}" for line in make(kind, "h") if kind not in ("char", "block")],
            "u3 rename h s/f",
            "u2 rename s/f s/g",
            "u1 rename s/g s/f",
            "u2 unlink s/f",
            "u1 rmdir s/f",
        ]
        made[f"parent-{kind}"] = ["mkdir p 2775", "chown p 1001 5000", "chmod p 2775"]
        if kind not in ("char", "block"):
            made[f"parent-{kind}"] += [
                "umask 027",
                *[f"u3 {line}" for line in make(kind, "p/f")],
                *[f"u2 {line}" for line in make(kind, "p/g")],
                "chmod p 700",
                *[f"u3 {line}" for line in make(kind, "p/h")],
                "u3 chmod p/f 600",
                "u3 unlink p/f",
                "u3 open p/f RDONLY",
                "u3 truncate p/f 0",
                "u3 lutimens p/f 1 1",
                "u3 rename p/f f",
                "u3 readlink p/f",
                "u3 lchown p/f 1003 1003",
            ]
        else:
            made[f"parent-{kind}"] += [
                *make(kind, "p/f"),
                *[f"u1 {line}" for line in make(kind, "p/g")],
            ]

    for mode in ("6777", "4755", "2755", "6000", "2745", "2710"):
        for act in (
            "u1 open f WRONLY 0 x",
            "u2 open f WRONLY 0 x",
            "open f WRONLY 0 x",
            "u2 fd f WRONLY truncate 1",
            "u2 truncate f 1",
            "u1 truncate f 1",
            "truncate f 3",
            "u2 open f WRONLY|TRUNC",
            "u1 open f WRONLY|TRUNC",
            "u1 chown f 1001 5000",
            "u3 chown f 1003 5000",
            "chown f 1001 5000",
            "chown f -1 -1",
            "u1 chown f -1 -1",
            "u1 chmod f 2777",
            "u3 chmod f 2777",
            "u1 utimens f 1 1",
            "u1 setxattr f user.a b",
            "fd f WRONLY fallocate 0 10",
            "u1 fd f WRONLY fallocate 0 10",
        ):
            owner = "1003 5000" if act.startswith("u3") else "1001 5000"
            made[f"bits {mode} {act}"] = [
                "create f 666 abc",
                f"chown f {owner}",
                f"chmod f {mode}",
                act,
            ]
            if "f WRONLY" not in act and "truncate" not in act:
                made[f"bits dir {mode} {act}"] = ["mkdir f", f"chown f {owner}", f"chmod f {mode}", act]

    for size in ("0", "1", "3", "10", "-1", "123456"):
        made[f"truncate {size}"] = [
            "create f 644 abc",
            f"truncate f {size}",
            f"truncate f {size}",
            f"fd f RDWR truncate {size}",
            f"fd f RDONLY truncate {size}",
            f"u1 truncate f {size}",
            "read f",
        ]
    made["truncate errors"] = lines("""
        create f 644 abc
        truncate missing 0
        truncate f 9223372036854775807
        limited f
        fd f RDWR fallocate 0 0
        fd f RDWR fallocate -1 5
        fd f RDWR fallocate 1 8
        fd f RDONLY fallocate 0 8
        read f
        """)
    made["open flags"] = lines(f"""
        create e 644
        open e WRONLY|TRUNC
        open e RDONLY|TRUNC
        open e RDWR
        create f 644 abc
        open f WRONLY|TRUNC
        open f WRONLY|APPEND 0 hello
        open f WRONLY|APPEND 0 world
        read f
        open f RDONLY|CREAT
        open missing RDONLY
        open missing/x CREAT|WRONLY
        open {OVER} CREAT|WRONLY
        open {OVER} RDONLY
        create {LONG} 644 x
        rename {LONG} {OVER}
        rename {OVER} x
        unlink {LONG}
        unlink {OVER}
        mkdir {LONG}
        mkdir {OVER}
        rmdir {LONG}
        rmdir {OVER}
        mkfifo {LONG}
        mkfifo {OVER}
        unlink {LONG}
        symlink {LONG} {LONG}
        open {LONG} RDONLY
        unlink {LONG}
        symlink {OVER} {OVER}
        chmod {OVER} 600
        chown {OVER} 0 0
        truncate {OVER} 0
        utimens {OVER} 1 1
        u1 create q 000 abc
        u1 open q RDONLY
        u1 open q WRONLY
        u1 open r CREAT|RDWR 444 abc
        u1 open r RDWR
        u1 open r RDONLY|TRUNC
        open r RDWR
        create suid 6777
        u1 create suid1 7777 a
        mkdir ddd
        open ddd CREAT|RDONLY
        open ddd CREAT|DIRECTORY|RDONLY
        open f TRUNC|RDONLY|DIRECTORY
        open f PATH
        """)
    made["symlinks"] = lines("""
        symlink target l
        open l RDONLY
        open l CREAT|EXCL|WRONLY
        open l CREAT|EXCL|WRONLY|NOFOLLOW
        open l CREAT|WRONLY|NOFOLLOW
        open l CREAT|WRONLY 644 through
        read l
        read target
        open l RDONLY|NOFOLLOW
        open l TRUNC|WRONLY
        chmod l 600
        chown l 1001 1001
        utimens l 5 6
        times target
        lutimens l 7 8
        times l
        truncate l 4
        mkdir l
        mkdir l/x
        symlink loop loop
        open loop RDONLY
        open loop CREAT|WRONLY
        open loop/x CREAT|WRONLY
        chmod loop 600
        unlink loop/x
        rename loop/x y
        rename y loop/x
        mkdir loop/x
        rmdir loop
        rmdir loop/
        unlink loop
        symlink b a
        symlink a b
        open a RDONLY
        chown a 0 0
        lchown a 1001 1001
        rename a c
        symlink "" empty
        readlink c
        readlink target
        readlink missing
        mkdir d
        symlink d dl
        open dl RDONLY|DIRECTORY
        open dl RDONLY|DIRECTORY|NOFOLLOW
        mkdir dl/x
        create dl/f 600 abc
        rmdir dl
        unlink dl/f
        rename dl/x dl/y
        rename dl dm
        rename d e
        mkdir dm/x
        symlink up/../target odd
        read odd
        """)
    for length in (1, 1000, 1023, 1024, 4094, 4095, 4096):
        target = "t" * length
        made[f"symlink of {length}"] = [f"symlink {target} l", "readlink l", "open l RDONLY"]
    made["dots"] = lines("""
        mkdir d
        mkdir d/e
        rmdir .
        rmdir d/.
        rmdir d/..
        rmdir d/e/..
        rmdir d/e/.
        rmdir d
        unlink d
        unlink d/e
        unlink .
        unlink d/..
        rename . x
        rename d/. x
        rename d/.. x
        rename d d/x
        rename d d/e/x
        rename d d/e
        rename d/e d
        rename d d
        rename d d/
        rename d/ f
        rename f d/
        rename d/e e
        mkdir .
        mkdir ..
        mkdir d/.
        mkdir d/
        mkdir n/
        create n2/ 644
        open n2/ CREAT|WRONLY
        open d/ CREAT|WRONLY
        create f 644
        open f/ RDONLY
        unlink f/
        rename f g/
        rename n/ f
        rename f n/
        mknod m/ FIFO 644
        symlink x s/
        rmdir n/
        noreplace d e
        exchange d e
        exchange d missing
        badflags d e
        """)
    made["directories"] = lines("""
        mkdir d 777
        create d/f 644 a
        rmdir d
        chmod d 555
        u1 create d/g 644
        u1 unlink d/f
        chmod d 666
        u1 open d/f RDONLY
        u1 ls d
        chmod d 711
        u1 ls d
        u1 open d/f RDONLY
        chmod d 000
        u1 chdir d
        chdir d
        chmod d 755
        open d WRONLY
        open d RDWR
        open d RDONLY
        open d RDONLY|TRUNC
        truncate d 0
        fd d RDONLY chmod 711
        fd d RDONLY chown 1001 1001
        fd d RDONLY utimens 10 20
        times d
        u1 mkdir d/sub 1755
        u1 mkdir d/sub2 6777
        u1 fd d/sub2 RDONLY create-in
        u2 mkdir d/sub3
        ls d
        fd d/sub RDONLY rmdir
        mkdir gone
        fd gone RDONLY create-in
        statvfs .
        """)
    made["open files"] = lines("""
        create f 644 abc
        fd f RDWR unlink
        create f 644 abc
        fd f RDWR write 10 xyz
        fd f RDONLY read
        fd f WRONLY read
        fd f RDONLY write 0 x
        fd f RDWR chmod 4711
        fd f RDWR chown 1001 1001
        u1 fd f RDWR chown 1001 1002
        fd f RDWR utimens 10 20
        times f
        fd f RDWR utimens 10 omit
        create g 644 new
        fd f RDONLY over g
        read f
        fd f RDWR truncate 100
        fd f RDWR fallocate 50 100
        fd f RDWR truncate 0
        fd f RDWR truncate 0
        """)
    made["permissions of times"] = lines("""
        create f 646
        u1 utimens f now now
        u1 utimens f now omit
        u1 utimens f omit now
        u1 utimens f omit omit
        u1 utimens f 1 now
        u1 utimens f now 1
        u1 utimens f 1 1
        chmod f 644
        u1 utimens f now now
        u1 utimens f omit omit
        chown f 1001 1001
        chmod f 000
        u1 utimens f now now
        u1 utimens f 1 now
        u1 utimens f now 1
        utimens f -1 -1.5
        times f
        utimens f 1 1.1000000000
        utimens f 4294967296.1 4294967296.2
        utimens missing 1 1
        """)
    made["chown rules"] = lines("""
        create f 644
        chown f 1003 1003
        u3 chown f 1003 5000
        u3 chown f -1 1001
        u3 chown f -1 1002
        u3 chown f 1002 -1
        u3 chown f 1003 -1
        u3 chown f -1 -1
        u1 chown f -1 -1
        u1 chown f 1003 -1
        u1 chown f -1 1001
        u1 chmod f 644
        chmod f 2755
        u3 chmod f 2755
        chown f 1003 5000
        u3 chmod f 2755
        chown f 1003 1002
        u3 chmod f 2755
        u3 chmod f 1755
        u3 chmod f 4755
        chown f 0 0
        u1 access f w
        u1 access f r
        u1 access missing f
        chmod f 000
        access f rw
        access f x
        chmod f 001
        access f x
        """)
    made["xattr"] = lines("""
        create f 644
        setxattr f user.a 1
        setxattr f user.a 2 1
        setxattr f user.b 2 2
        setxattr f user.b 2 1
        getxattr f user.a
        getxattr f user.none
        listxattr f
        removexattr f user.a
        removexattr f user.a
        u1 setxattr f user.c d
        u1 getxattr f user.b
        chmod f 600
        u1 getxattr f user.b
        setxattr f bogus.a 1
        setxattr f user. 1
        setxattr missing user.a 1
        getxattr missing user.a
        setxattr f trusted.a 1
        u1 getxattr f trusted.a
        listxattr f
        u1 listxattr f
        """)
    made["nodes"] = lines("""
        mknod r FREG 640
        mknod z FCHR 600 0 0
        mknod big FBLK 600 4000 1000000
        u1 mknod c FCHR 600 1 3
        u1 mknod b FBLK 600 7 0
        u1 mknod p FIFO 6711
        u1 mknod s FSOCK 1600
        u1 mknod r1 FREG 4755
        mknod r FREG 600
        mknod missing/x FIFO 600
        mknod r/x FIFO 600
        open p WRONLY|NONBLOCK
        u2 open p RDONLY|NONBLOCK
        """)
    made["move between"] = lines("""
        mkdir a
        mkdir b
        chown a 1001 1001
        create a/f 644 x
        u1 rename a/f b/f
        u1 rename a/f a/g
        u2 rename a/g a/h
        chmod b 777
        u1 rename a/g b/g
        u1 mkdir a/d
        chown a/d 0 0
        u1 rename a/d b/d
        u1 rename a/d a/e
        chown a/e 1001 1001
        u1 rename a/e b/e
        chmod b 1777
        u2 unlink b/g
        u2 rename b/e e
        u1 mkdir a/e
        u2 rename a/e b/e
        u1 rename a/e b/e
        rename missing x
        rename missing missing
        rename missing/x y
        rename a/f/x y
        rename a missing/x
        """)
    made["failed links"] = lines(f"""
        create f 644
        create g 644
        mkdir d
        mkfifo p
        symlink nowhere l
        link f g
        link f d
        link missing x
        link missing g
        link d x
        link f missing/x
        link f g/x
        link f/x y
        link f {OVER}
        link {OVER} x
        u1 link f x
        u1 link f d/x
        link l f
        link . x
        link d/.. x
        """)
    made["link"] = ["create f 644", "link f g"]
    made["busy"] = ["busy f"]
    made["open directories"] = lines("""
        mkdir a
        mkdir b
        mkdir a/d
        fd a/d RDONLY moved b/e
        ls b/e
        fd b/e/x RDONLY removed
        ls b/e
        fd b RDONLY fsync
        create f 644 x
        fd f RDONLY fsync
        fd f WRONLY fsync
        mkfifo p
        fd p RDWR|NONBLOCK fsync
        """)
    made["chain"] = [
        "create s0 644 end",
        *[f"symlink s{i} s{i + 1}" for i in range(45)],
        *[f"read s{i}" for i in (38, 39, 40, 41, 45)],
        "truncate s40 0",
        "truncate s41 0",
    ]
    made["slashes"] = lines("""
        mkdir d
        symlink d dl
        symlink nowhere l
        symlink f fl
        create f 644
        ls dl/
        mkdir l/
        create l/ 644
        open l/ CREAT|WRONLY
        open l/ RDONLY
        open fl/ RDONLY
        unlink dl/
        rmdir dl/
        rename dl/ x
        rename d dl/
        rename fl/ x
        rename f l/
        symlink x l/
        mkfifo l/
        chmod f/ 600
        chown fl/ 0 0
        truncate f/ 0
        utimens f/ 1 1
        lchown dl/ 1001 1001
        lutimens dl/ 5 6
        readlink dl/
        readlink fl/
        """)
    for mask in ("000", "077", "027", "777"):
        made[f"umask {mask}"] = [f"umask {mask}"]
        for user in ("", "u1 "):
            for mode in ("0777", "7777", "0640"):
                name = user.strip() + mode
                made[f"umask {mask}"] += [
                    f"{user}create c{name} {mode}",
                    f"{user}mkdir d{name} {mode}",
                    f"{user}mkfifo p{name} {mode}",
                    f"{user}mknod r{name} FREG {mode}",
                    f"{user}symlink x l{name}",
                    f"{user}bind s{name}",
                ]
    made["setgid directory of others"] = [
        "mkdir p",
        "chown p 0 5000",
        "chmod p 2777",
        *[
            f"{user} {line}"
            for user in ("u2", "u3")
            for line in (
                f"create p/f{user} 2775",
                f"create p/g{user} 2765",
                f"mkdir p/d{user} 2775",
                f"mkdir p/e{user} 0700",
                f"mknod p/m{user} FREG 2775",
                f"mknod p/p{user} FIFO 2775",
                f"mkdir p/d{user}/x 700",
                f"symlink x p/l{user}",
                f"chmod p/d{user} 2700",
                f"chmod p/f{user} 2755",
            )
        ],
        "rename p/fu2 f",
        "mkdir q",
        "rename q p/q",
    ]
    made["other user's directories"] = lines("""
        mkdir a
        mkdir a/d
        mkdir a/d/e
        chown a 1001 1001
        u1 rmdir a/d
        u1 rename a/d a/x
        u1 rename a/d x
        u1 rename a/d/e e
        u2 rmdir a/d
        rmdir a/d/e
        u2 rmdir a/d
        u1 rmdir a/d
        u2 mkdir a/y
        u2 symlink a y
        u1 rename y a/y
        u2 rename a/y y
        chmod a 1755
        u1 rename a/y y
        """)
    return made
