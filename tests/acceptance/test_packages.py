"""What is built is what is needed: source distribution, wheel, and installations of them that mount."""

from __future__ import annotations

import email
import os
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.mounts import BUCKET, Room, Service, is_mounted, run, tree_digest

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS = 600.0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is under version control and what is about to be, without anything that tools have left."""
    target = tmp_path_factory.mktemp("checkout") / "ossfs"
    names = run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def outside() -> dict[str, str]:
    """An environment in which nothing leads back to this checkout."""
    hidden = ("PYTHON", "OSS", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


@pytest.fixture(scope="module")
def built(checkout: Path, outside: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions; the wheel is built from the source distribution."""
    target = tmp_path_factory.mktemp("dist")
    run(
        *(sys.executable, "-m", "build", "--outdir", target, checkout),
        env=outside,
        cwd=target,
        seconds=INSTALL_SECONDS,
    )
    return target


def only(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "ossfs" / "__init__.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_the_source_distribution_is_the_checkout(built: Path, checkout: Path) -> None:
    archive = only(built, "*.tar.gz")
    assert archive.name == f"ossfs-{version()}.tar.gz"
    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames() if not name.endswith("/")}
    files = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    # What is about the repository and not about the product.
    files = {name for name in files if not name.startswith(".")}
    assert sorted(files - inside) == []


def test_the_wheel_has_what_an_administrator_needs(built: Path) -> None:
    wheel = only(built, "*.whl")
    assert wheel.name == f"ossfs-{version()}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"ossfs-{version()}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        license_text = archive.read(f"{info}/licenses/LICENSE").decode()
    share = f"ossfs-{version()}.data/data/share"
    for directory in ("systemd", "docs"):
        for path in (ROOT / directory).iterdir():
            assert f"{share}/doc/ossfs/{directory}/{path.name}" in names
    for page in (ROOT / "man").glob("*.8"):
        assert f"{share}/man/man8/{page.name}" in names
    assert f"{share}/doc/ossfs/README.md" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "scripts"))]
    assert metadata["License-Expression"] == "MIT"
    assert license_text == (ROOT / "LICENSE").read_text()
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Summary"]
    assert "Operating System :: POSIX :: Linux" in metadata.get_all("Classifier", [])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().lstrip().startswith("# ossfs")


def mounts(command: Path, service: Service, room: Room, outside: dict[str, str], tree: Path) -> None:
    """Mount with an installed command, copy a tree in, mount again, and compare."""
    place = room.make("installed") / "mnt"
    place.mkdir()
    environment = outside | {
        "OSS_ACCESS_KEY_ID": service.key_id,
        "OSS_ACCESS_KEY_SECRET": service.key_secret,
        "OSSFS_RUNTIME_DIR": str(room.runtime),
    }
    options = f"endpoint={service.url},log_file={place.parent / 'log'},state_dir={place.parent / 'state'}"
    prefix = place.parent.name
    for new in (True, False):
        run(command, "mount", f"{BUCKET}:/{prefix}", place, "-o", options, env=environment, cwd="/")
        assert is_mounted(place)
        if new:
            run("cp", "-a", tree, place / "tree")
        else:
            assert tree_digest(place / "tree") == tree_digest(tree)
        run(command, "umount", place, env=environment, cwd="/")
        assert not is_mounted(place)


def test_a_wheel_in_a_fresh_environment_mounts(
    built: Path, outside: dict[str, str], service: Service, room: Room, source_tree: Path, tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv, env=outside)
    run(
        *(venv / "bin" / "pip", "install", "--no-cache-dir", only(built, "*.whl")),
        env=outside,
        cwd="/",
        seconds=INSTALL_SECONDS,
    )
    python = venv / "bin" / "python"
    where = run(python, "-c", "import ossfs; print(ossfs.__file__)", env=outside, cwd="/").strip()
    assert where.startswith(f"{venv}/lib/")
    # It comes as source, and without its C extension oss2 would compute checksums in Python.
    run(python, "-W", "ignore", "-c", "import crcmod._crcfunext, oss2", env=outside, cwd="/")
    assert run(venv / "bin" / "ossfs", "--version", env=outside, cwd="/") == f"ossfs {version()}\n"
    units = venv / "share" / "doc" / "ossfs" / "systemd"
    assert sorted(os.listdir(units)) == sorted(os.listdir(ROOT / "systemd"))
    shown = run("man", "-M", venv / "share" / "man", "8", "ossfs", env=outside | {"PAGER": "cat"}, cwd="/")
    assert "chunk_size" in shown
    mounts(venv / "bin" / "ossfs", service, room, outside, source_tree)
    # What others installed there stays; what is ours goes.
    run(venv / "bin" / "pip", "uninstall", "-y", "ossfs", env=outside, cwd="/")
    assert not (venv / "bin" / "ossfs").exists()
    assert not (venv / "share" / "doc" / "ossfs" / "README.md").exists()


def test_pipx_installs_a_checkout_that_mounts(
    checkout: Path,
    outside: dict[str, str],
    service: Service,
    room: Room,
    source_tree: Path,
    tmp_path: Path,
) -> None:
    environment = outside | {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    run("pipx", "install", checkout, env=environment, cwd=tmp_path, seconds=INSTALL_SECONDS)
    command = tmp_path / "bin" / "ossfs"
    assert run(command, "--version", env=outside, cwd="/") == f"ossfs {version()}\n"
    mounts(command, service, room, outside, source_tree)
    run("pipx", "uninstall", "ossfs", env=environment, cwd=tmp_path)
    assert not command.exists()
