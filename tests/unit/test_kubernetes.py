"""The example of docs/kubernetes.md: YAML whose parts agree, and a command that ossfs accepts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from ossfs.cli import app
from ossfs.config import MountConfig, load_config

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes.md"


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    """What the page defines, by kind."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = [yaml.safe_load(block) for block in blocks]
    return {one["kind"]: one for one in found}


@pytest.fixture(scope="module")
def pods(objects: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod that mounts, and the one that uses it."""
    return objects["DaemonSet"]["spec"]["template"]["spec"], objects["Pod"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def mount_command(pod: dict[str, Any]) -> tuple[list[str], MountConfig]:
    """The words of `ossfs mount`, and what they mean."""
    (container,) = pod["containers"]
    assert container["command"] == ["sh", "-c"]
    (script,) = container["args"]
    words = shlex.split(script.splitlines()[-1], comments=True)
    assert words[:3] == ["exec", "ossfs", "mount"], "ossfs itself must get the signal"
    assert words[5:7] == ["-f", "-o"] and len(words) == 8
    return words, load_config(words[3], words[4], [words[7]])


def test_the_selector_finds_the_pods(objects: dict[str, dict[str, Any]]) -> None:
    spec = objects["DaemonSet"]["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]


def test_the_mount_is_for_others(pods: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, config = mount_command(pods[0])
    assert config.allow_other and config.region
    limit = pods[0]["containers"][0]["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    # By default it is a gigabyte at most; the process itself needs some.
    assert int(limit.removesuffix("Mi")) * (1 << 20) >= (1 << 30) + (256 << 20)


def test_probes_are_commands_of_ossfs(pods: tuple[dict[str, Any], dict[str, Any]]) -> None:
    words, _ = mount_command(pods[0])
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for probe in ("readinessProbe", "livenessProbe"):
        program, command, place = pods[0]["containers"][0][probe]["exec"]["command"]
        assert program == "ossfs" and command in commands and place == words[4]


def test_every_volume_is_there_and_none_is_deleted_with_a_pod(
    pods: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        used = {mounted["name"] for one in containers(pod) for mounted in one["volumeMounts"]}
        assert used == set(volumes)
        assert all("hostPath" in volume for volume in volumes.values())


def test_the_directory_above_the_mount_is_shared(pods: tuple[dict[str, Any], dict[str, Any]]) -> None:
    words, _ = mount_command(pods[0])
    above = str(Path(words[4]).parent)
    for pod, propagation in zip(pods, ("Bidirectional", "HostToContainer"), strict=True):
        (volume,) = (one for one in pod["volumes"] if one["name"] == "mounts")
        assert volume["hostPath"]["path"] == above
        for container in containers(pod):
            (mounted,) = (one for one in container["volumeMounts"] if one["name"] == "mounts")
            assert mounted["mountPath"] == above
            assert mounted["mountPropagation"] == propagation
    # Kubernetes refuses Bidirectional without it.
    assert pods[0]["containers"][0]["securityContext"]["privileged"] is True


def test_the_pod_waits_for_the_mount(pods: tuple[dict[str, Any], dict[str, Any]]) -> None:
    words, _ = mount_command(pods[0])
    assert f"until mountpoint -q {words[4]};" in pods[1]["initContainers"][0]["command"][-1]
