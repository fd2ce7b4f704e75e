"""The parts of the demonstration: it must see a difference, and must not hang.  `make demo` runs it whole."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ossfs_demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stage(demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Demo whose mount is an ordinary directory, with the same tree on both sides."""
    monkeypatch.setattr(demo.tempfile, "gettempdir", lambda: str(tmp_path))
    stage = demo.Demo()
    for base in (stage.expected, stage.mountpoint):
        (base / "d").mkdir()
        (base / "d" / "f").write_bytes(b"content")
        (base / "link").symlink_to("d/f")
    yield stage
    stage.clean_up()


def test_output_of_a_program(demo: ModuleType) -> None:
    assert demo.run("echo", "hello") == "hello\n"


def test_a_program_that_fails(demo: ModuleType) -> None:
    with pytest.raises(demo.StepFailed, match=r"ended with status 3\nwhy"):
        demo.run("sh", "-c", "echo why >&2; exit 3")


def test_a_program_that_hangs(demo: ModuleType) -> None:
    with pytest.raises(demo.StepFailed, match="took more than 0 seconds"):
        demo.run(sys.executable, "-c", "import signal; signal.pause()", seconds=0.01)


def test_a_server_that_ends_ends_the_step(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    server = subprocess.Popen(["false"])
    server.wait()
    monkeypatch.setattr(demo, "WATCHED", [server])
    for run in (
        lambda command: demo.run(*command),
        lambda command: demo.run_counting(command, "lines", 1),
        lambda command: demo.run_growing(command, Path("/no-such-file"), "bytes", 1),
    ):
        with pytest.raises(demo.StepFailed, match=r"ossfs serve .* ended with status 1"):
            run([sys.executable, "-c", "import signal; signal.pause()"])


def test_counting_lines(demo: ModuleType) -> None:
    demo.run_counting(["sh", "-c", "echo a; echo b"], "lines", 2)
    with pytest.raises(demo.StepFailed, match=r"status 1\na"):
        demo.run_counting(["sh", "-c", "echo a; exit 1"], "lines", 2)


def test_a_counted_program_that_hangs(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STEP_SECONDS", 0.01)
    with pytest.raises(demo.StepFailed, match="took more than"):
        demo.run_counting([sys.executable, "-c", "import signal; signal.pause()"], "lines", 2)


def test_growing_file(demo: ModuleType, tmp_path: Path) -> None:
    demo.run_growing(["sh", "-c", f"echo x > {tmp_path}/f"], tmp_path / "f", "bytes", 2)
    with pytest.raises(demo.StepFailed, match="no-such-file"):
        demo.run_growing(["cat", "/no-such-file"], tmp_path / "f", "bytes", 2)


def test_equal_trees_pass(stage: Any) -> None:
    stage.compare("now")


def test_other_bytes_are_seen(demo: ModuleType, stage: Any) -> None:
    (stage.mountpoint / "d" / "f").write_bytes(b"c0ntent")
    with pytest.raises(demo.StepFailed, match="diff"):
        stage.compare("now")


def test_another_mode_is_seen(demo: ModuleType, stage: Any) -> None:
    (stage.mountpoint / "d" / "f").chmod(0o600)
    with pytest.raises(demo.StepFailed, match="1 files differ"):
        stage.compare("now")


def test_another_link_is_seen(demo: ModuleType, stage: Any) -> None:
    (stage.mountpoint / "link").unlink()
    (stage.mountpoint / "link").symlink_to("d")
    with pytest.raises(demo.StepFailed):
        stage.compare("now")


def test_a_missing_file_is_seen(demo: ModuleType, stage: Any) -> None:
    (stage.mountpoint / "link").unlink()
    with pytest.raises(demo.StepFailed, match="Only in"):
        stage.compare("now")


def test_the_edit_is_the_same_on_both_sides(stage: Any) -> None:
    for base in (stage.expected, stage.mountpoint):
        (base / "big.bin").write_bytes(b"")
        os.truncate(base / "big.bin", 200 << 20)
    stage.edit()
    stage.compare("now")
    with open(stage.mountpoint / "big.bin", "rb") as file:
        file.seek(38400 * 4096)
        assert file.read(4096) != bytes(4096)


def test_everything_is_removed(stage: Any) -> None:
    assert stage.clean_up() is True
    assert not stage.base.exists()
    stage.base.mkdir()
    stage.mountpoint.mkdir()
