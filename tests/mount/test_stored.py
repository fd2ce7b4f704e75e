"""Options for how objects are kept, and who pays: what the server has of what a mount did."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.support.mounts import MIB, Mount, Room, Service, ossfs_command, run, shell

KMS = {"x-oss-server-side-encryption": "KMS", "x-oss-server-side-encryption-key-id": "key-1"}


def headers_of(service: Service, key: str) -> dict[str, str]:
    found = {name.lower(): value for name, value in service.sdk.head_object(key).headers.items()}
    found["acl"] = service.sdk.get_object_acl(key).acl
    names = ("x-oss-storage-class", *KMS, "acl")
    return {name: found[name] for name in names if name in found}


def test_what_the_server_stores(service: Service, new_mount: Callable[..., Mount]) -> None:
    as_options = {"x-oss-storage-class": "IA", **KMS, "acl": "public-read"}
    before = {"x-oss-storage-class": "Standard", "x-oss-server-side-encryption": "AES256", "acl": "private"}
    for name in ("chmod", "mv", "append"):
        service.write(f"kept/{name}", b"old", {"x-oss-server-side-encryption": "AES256"})
        service.sdk.put_object_acl(f"kept/{name}", "private")
    mount = new_mount(
        "bkt:/kept", storage_class="ia", kms_key_id="key-1", acl="public-read", keep_acl="always"
    )
    script = """
        mkdir dir; echo small >dir/small; ln -s small dir/link
        head -c 25000000 /dev/urandom >dir/large; touch -d 2001-01-01 dir/large; cp -a dir/large dir/copied
        mv dir/large dir/moved
        chmod 600 chmod; touch -d 2001-01-01 chmod; mv mv moved; echo new >>append
    """
    shell(script, cwd=mount.path)
    mount.umount()
    for name in ("dir/", "dir/small", "dir/link", "dir/copied", "dir/moved", "append"):
        assert headers_of(service, f"kept/{name}") == as_options, name
    for name in ("chmod", "moved"):
        assert headers_of(service, f"kept/{name}") == before, name
    assert service.read("kept/append") == b"oldnew\n"


def test_the_acl_of_a_private_object_outlives_changes_in_a_public_bucket(
    service: Service, new_mount: Callable[..., Mount]
) -> None:
    service.write("secret/f", b"x")
    service.sdk.put_object_acl("secret/f", "private")
    service.sdk.put_bucket_acl("public-read")
    try:
        mount = new_mount("bkt:/secret")
        shell("chmod 600 f; mv f g; mkdir d; mv g d; mv d e", cwd=mount.path)
        mount.umount()
        assert headers_of(service, "secret/e/g")["acl"] == "private"
    finally:
        service.sdk.put_bucket_acl("private")


def test_a_bucket_where_the_requester_pays(service: Service, room: Room) -> None:
    """The server refuses every request that does not say who pays."""
    service.requester_pays(True)
    mount = Mount(service, room, options={"requester_pays": "true", "traffic_limit": "100MB"})
    try:
        mount.mount()
        path = mount.path / "paid"
        path.mkdir()
        (path / "f").write_bytes(os.urandom(12 * MIB))
        os.rename(path / "f", path / "g")
        os.chmod(path / "g", 0o600)
        assert len((path / "g").read_bytes()) == 12 * MIB
        url = run(*ossfs_command(), "url", path / "g", env=mount.environment).strip()
        assert "x-oss-request-payer=requester" in url
        assert os.listdir(path) == ["g"]
        (path / "g").unlink()
        path.rmdir()
        mount.umount()
    finally:
        service.requester_pays(False)
        mount.close()
