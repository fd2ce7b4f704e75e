"""The fork, and the one word that the parent waits for.  Each case runs in a process of its own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PRELUDE = """
import os, signal, sys, time
from ossfs.daemon import run_in_background
from ossfs.errors import ConfigError, MountError, UserError

def start(child, **values):
    try:
        return run_in_background(child, **values)
    except UserError as error:
        print("ossfs:", error, file=sys.stderr)
        return 1
"""


def run(code: str, *, seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run *code* after the prelude; until it and all that it started have closed their output."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_parent_returns_when_the_child_is_usable_and_the_child_runs_on(tmp_path: Path) -> None:
    end, told = tmp_path / "end", tmp_path / "told"
    os.mkfifo(end)
    os.mkfifo(told)
    result = run(
        f"""
        def child(ready):
            # systemd's process group may come near an automounted place that is just being mounted.
            assert os.getpgid(0) == os.getpgid(os.getppid())
            print("before", file=sys.stderr, flush=True)
            ready()
            print("after", file=sys.stderr, flush=True)
            open({str(end)!r}).read()
            with open({str(told)!r}, "w") as file:
                session = os.getsid(0) == os.getpid()
                null = all(os.readlink(f"/proc/self/fd/{{fd}}") == "/dev/null" for fd in (0, 1, 2))
                file.write(f"{{os.getcwd()}} {{session}} {{null}}")
            return 0
        sys.exit(start(child))
        """
    )
    assert result.returncode == 0
    assert result.stderr == "before\n"
    end.write_text("")
    assert told.read_text() == "/ True True"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise MountError('there is no bucket x; create it')", "ossfs: there is no bucket x; create it"),
        ("raise ConfigError('é ' + 'x' * 100000)", "ossfs: é xxx"),
        ("raise ExceptionGroup('x', [ExceptionGroup('y', [MountError('deep')])])", "ossfs: deep"),
        ("raise ExceptionGroup('x', [MountError('a'), ValueError('b')])", "ended unexpectedly"),
        ("return 0", "ended before it was usable"),
        ("return 3", "ended unexpectedly before the mount was usable; see the log"),
        ("os._exit(0)", "ended unexpectedly"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended unexpectedly"),
        ("raise KeyboardInterrupt", "ended unexpectedly"),
        ("1 / 0", "ended unexpectedly"),
        ("sys.exit(0)", "ended unexpectedly"),
    ],
)
def test_the_reason_why_not(body: str, said: str) -> None:
    result = run(
        f"""
        def child(ready):
            {body}
        sys.exit(start(child))
        """
    )
    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.count("ossfs: ") == 1


def test_the_log_is_named() -> None:
    result = run("sys.exit(start(lambda ready: 3, log_place='/var/log/x'))")
    assert "see /var/log/x" in result.stderr


def test_an_error_after_ready_does_not_reach_the_parent() -> None:
    result = run(
        """
        def child(ready):
            ready()
            ready()
            raise MountError("late")
        sys.exit(start(child))
        """
    )
    assert result.returncode == 0
    assert result.stderr == ""


def test_a_child_that_never_gets_ready_is_terminated() -> None:
    result = run(
        """
        def child(ready):
            print(os.getpid(), flush=True)
            signal.pause()
        sys.exit(start(child, timeout=0.2))
        """
    )
    assert result.returncode == 1
    assert "not usable after 0 seconds" in result.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(result.stdout), 0)


def test_ctrl_c_ends_the_child_too() -> None:
    """A terminal sends it to both, and there is one who answers."""
    code = """
    def child(ready):
        print(os.getpid(), flush=True)
        signal.pause()
    try:
        start(child)
    except KeyboardInterrupt:
        sys.exit(130)
    """
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        child = int(parent.stdout.readline())
        pidfd = os.pidfd_open(child)
        try:
            os.killpg(parent.pid, signal.SIGINT)
            assert parent.wait(timeout=30) == 130
            assert parent.stderr.read() == ""
            assert select.select([pidfd], [], [], 30)[0], "the child runs on"
        finally:
            os.close(pidfd)


def test_a_parent_that_was_killed_does_not_stop_the_child(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    code = f"""
    def child(ready):
        parent = os.pidfd_open(os.getppid())
        print("started", flush=True)
        import select
        select.select([parent], [], [])
        ready()
        with open({str(told)!r}, "w") as file:
            file.write("still here")
        return 0
    start(child)
    """
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.kill()
        assert told.read_text() == "still here"


def test_a_process_with_threads_does_not_fork() -> None:
    result = run(
        """
        import threading
        stop = threading.Event()
        threading.Thread(target=stop.wait).start()
        try:
            run_in_background(lambda ready: 0)
        except RuntimeError as error:
            print(error)
        finally:
            stop.set()
        """
    )
    assert "must not fork" in result.stdout
