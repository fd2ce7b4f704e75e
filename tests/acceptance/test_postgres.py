"""PostgreSQL keeps its database on a mount that is killed, and finds every transaction that it has confirmed.

What a database trusts is fsync: of its log at each commit, of its tables at each checkpoint, and of the
directories in between.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import MIB, Mount, Room, Service, end, run, spawn, wait_for

ROUNDS = 3
COMMAND_SECONDS = 300.0


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that the user postgres may go to: the database refuses to be root."""
    with tempfile.TemporaryDirectory(prefix="ossfs-postgres-", ignore_cleanup_errors=True) as name:
        made = Path(name)
        made.chmod(0o755)
        (made / "sockets").mkdir()
        (made / "sockets").chmod(0o777)
        yield made


@pytest.fixture
def mount(outside: Path, service: Service) -> Iterator[Mount]:
    room = Room(outside)
    made = Mount(service, room, source="bkt:/database", options={"allow_other": "true"})
    made.mount()
    yield made
    made.close()
    room.close()


def programs() -> Path:
    """Where Debian has those of the newest PostgreSQL."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: float(place.parent.name))


def command(program: str, *arguments: str | Path) -> list[str | Path]:
    """A program of PostgreSQL as its own user."""
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    return [*user, programs() / program, *arguments]


@contextlib.contextmanager
def server(data: Path, sockets: Path, log: Path) -> Iterator[Callable[..., str]]:
    """A server that answers; given is a function that asks it."""
    with open(log, "ab") as told:
        process = spawn(
            command("postgres", "-D", data, "-k", sockets, "-c", "listen_addresses="), stderr=told, cwd="/"
        )

    def ask(question: str) -> str:
        arguments = ["-h", sockets, "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-qAtc", question]
        return run(*command("psql", *arguments), cwd="/", seconds=COMMAND_SECONDS).strip()

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        status = run(*command("pg_isready", "-q", "-h", sockets), cwd="/", status=None)
        return status == "" and subprocess.call(command("pg_isready", "-q", "-h", sockets), cwd="/") == 0

    try:
        wait_for(ready, "PostgreSQL", 120)
        yield ask
    finally:
        end(process)


def confirmed(told: Path) -> list[int]:
    """The numbers of the rows whose commit was confirmed; what the kill has cut off is none."""
    return [int(line) for line in told.read_text().split("\n")[:-1] if line]


def test_a_database_keeps_what_it_has_confirmed_when_its_mount_is_killed(
    mount: Mount, outside: Path, tmp_path: Path
) -> None:
    data, sockets, log = mount.path / "data", outside / "sockets", tmp_path / "server.log"
    data.mkdir(mode=0o700)
    run("chown", "postgres:", data)
    run(*command("initdb", "-k", "-A", "trust", "-D", data), cwd="/", seconds=COMMAND_SECONDS)
    rows = tmp_path / "rows"
    rows.write_text(
        "insert into log(bytes) values (repeat(md5(random()::text), 50)) returning n;\n" * 100_000
    )
    acknowledged: set[int] = set()
    for number in range(ROUNDS):
        with server(data, sockets, log) as ask:
            ask("create table if not exists log(n serial primary key, bytes text)")
            told = tmp_path / f"told-{number}"
            with open(rows, "rb") as given, open(told, "wb") as out:
                writer = spawn(
                    command("psql", "-h", sockets, "-d", "postgres", "-qAt"),
                    stdin=given,
                    stdout=out,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                )
            wait_for(lambda told=told: len(confirmed(told)) > 20, "rows", 120)  # type: ignore[misc]
            ask("checkpoint")
            time.sleep(random.Random(number).uniform(0.5, 3.0))  # where in its work it is hit
            mount.kill()
            end(writer)
        acknowledged.update(confirmed(told))
        mount.mount()
        with server(data, sockets, log) as ask:
            there = {int(n) for n in ask("select n from log").split()}
            assert acknowledged <= there, sorted(acknowledged - there)
            assert ask("select count(*) from log where length(bytes) <> 1600") == "0"
        mount.remount()
    assert len(acknowledged) > 20 * ROUNDS
    run(*command("pg_checksums", "--check", "-D", data), cwd="/", seconds=COMMAND_SECONDS)
    assert sum(path.stat().st_size for path in (data / "base").rglob("*")) > 5 * MIB
