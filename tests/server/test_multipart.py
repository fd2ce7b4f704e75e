"""Multipart uploads: parts sent and copied, completion, refusals, listings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import fastcrc
import oss2
import pytest

from ossfs.server import RunningServer
from tests.server.wiretools import Reply, Wire

PART = bytes(range(256)) * 8


def _initiate(wire: Wire, key: str = "m", headers: dict[str, str] | None = None, **params: str) -> str:
    reply = wire("POST", key, {"uploads": "", **params}, headers)
    assert reply.status == 200
    upload_id = reply.xml.findtext("UploadId") or ""
    assert len(upload_id) == 32
    return upload_id


def _part(wire: Wire, upload: str, number: int, data: bytes, key: str = "m") -> str:
    reply = wire("PUT", key, {"partNumber": str(number), "uploadId": upload}, body=data)
    assert reply.status == 200
    assert reply.headers["x-oss-hash-crc64ecma"] == str(fastcrc.crc64.xz(data))
    return reply.headers["ETag"]


def _document(parts: list[tuple[int, str]]) -> bytes:
    lines = [f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>" for n, e in parts]
    return f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>".encode()


def _complete(wire: Wire, upload: str, parts: list[tuple[int, str]], key: str = "m") -> Reply:
    return wire("POST", key, {"uploadId": upload}, body=_document(parts))


def _blob_files(tmp_path: Path) -> int:
    return sum(1 for path in (tmp_path / "oss/blobs").glob("*/*"))


def test_the_published_example(start: Callable[..., RunningServer], sdk: Callable[..., oss2.Bucket]) -> None:
    bucket = sdk(start())
    upload = bucket.init_multipart_upload("m").upload_id
    parts = []
    for number, data in ((1, b"a" * 102400), (2, b"b")):
        result = bucket.upload_part("m", upload, number, data)
        parts.append(oss2.models.PartInfo(number, result.etag, size=len(data), part_crc=result.crc))
    # The SDK compares the CRC of the whole, combined from the parts'.
    result = bucket.complete_multipart_upload("m", upload, parts)
    assert result.etag == "8CB0E9C485EDDD0078747AB04DE049E9-2"
    head = bucket.head_object("m")
    assert head.headers["x-oss-hash-crc64ecma"] == "10317615437480851157"
    assert head.object_type == "Multipart"
    assert "Content-MD5" not in head.headers
    assert bucket.get_object("m").read() == b"a" * 102400 + b"b"


def test_all_of_it(wire: Wire) -> None:
    wire("PUT", "m", body=b"old")
    headers = {
        "x-oss-meta-a": "1",
        "Content-Type": "a/b",
        "x-oss-tagging": "t=1",
        "x-oss-storage-class": "IA",
    }
    upload = _initiate(wire, headers={**headers, "x-oss-server-side-encryption": "AES256"})
    pieces = {1: PART, 3: b"replaced", 7: b"small end"}
    etags = {number: _part(wire, upload, number, data) for number, data in pieces.items()}
    etags[3] = _part(wire, upload, 3, PART[::-1])
    _part(wire, upload, 9, b"unlisted")
    pieces[3] = PART[::-1]
    assert wire("GET", "m").body == b"old"
    reply = _complete(wire, upload, sorted(etags.items()))
    whole = b"".join(pieces[number] for number in sorted(pieces))
    text = "".join(etag.strip('"') for _, etag in sorted(etags.items()))
    expected = f'"{hashlib.md5(text.encode()).hexdigest().upper()}-3"'
    assert reply.xml.findtext("ETag") == reply.headers["ETag"] == expected
    assert reply.headers["x-oss-hash-crc64ecma"] == str(fastcrc.crc64.xz(whole))
    assert (reply.xml.findtext("Bucket"), reply.xml.findtext("Key")) == ("demo", "m")
    got = wire("GET", "m")
    assert (got.body, got.headers["ETag"]) == (whole, expected)
    assert (got.headers["x-oss-meta-a"], got.headers["Content-Type"]) == ("1", "a/b")
    assert got.headers["x-oss-tagging-count"] == "1"
    assert got.headers["x-oss-storage-class"] == "IA"
    assert got.headers["x-oss-server-side-encryption"] == "AES256"
    for first in (0, 2000, 2047, 2048, 2049, 4095, 4096, 4100):
        for last in (first, first + 1, len(whole) - 1):
            if last < len(whole):
                reply = wire("GET", "m", headers={"Range": f"bytes={first}-{last}"})
                assert (reply.status, reply.body) == (206, whole[first : last + 1])
    # The upload is gone: what a client sees that repeats a completion whose answer was lost.
    assert _complete(wire, upload, sorted(etags.items())).code == "NoSuchUpload"


def test_complete_all(wire: Wire) -> None:
    upload = _initiate(wire)
    for number in (2, 5):
        _part(wire, upload, number, PART)
    params, all_of_it = {"uploadId": upload}, {"x-oss-complete-all": "yes"}
    both = wire("POST", "m", params, all_of_it, body=_document([(2, "x")]))
    assert (both.status, both.headers["x-oss-ec"]) == (400, "0042-00000216")
    assert wire("POST", "m", params, all_of_it).status == 200
    assert wire("GET", "m").body == PART + PART
    assert wire("POST", "n", {"uploadId": _initiate(wire, "n")}, all_of_it).code == "InvalidPart"


def test_completions_that_are_refused(wire: Wire) -> None:
    upload = _initiate(wire)
    first, second = _part(wire, upload, 1, b"too small"), _part(wire, upload, 2, PART)
    for parts, code in (
        ([(1, first), (2, second)], "EntityTooSmall"),
        ([(2, second), (1, first)], "InvalidPartOrder"),
        ([(2, second), (2, second)], "InvalidPartOrder"),
        ([(1, second)], "InvalidPart"),
        ([(3, first)], "InvalidPart"),
        ([(0, first)], "InvalidPartOrder"),
        ([(10001, first)], "InvalidPartOrder"),
        ([], "MalformedXML"),
    ):
        reply = _complete(wire, upload, parts)
        assert (reply.status, reply.code) == (400, code), parts
    for body in (b"", b"junk", b"<CompleteMultipartUpload><Part/></CompleteMultipartUpload>"):
        assert wire("POST", "m", {"uploadId": upload}, body=body).code == "MalformedXML"
    assert _complete(wire, "0" * 32, [(1, first)]).code == "NoSuchUpload"
    assert _complete(wire, upload, [(1, first)], key="other").code == "NoSuchUpload"
    wire("PUT", "m", body=b"there")
    document = _document([(2, second)])
    forbid = {"x-oss-forbid-overwrite": "true"}
    assert wire("POST", "m", {"uploadId": upload}, forbid, body=document).code == "FileAlreadyExists"
    # Nothing of this has harmed the upload.
    assert _complete(wire, upload, [(2, second.lower())]).status == 200
    assert wire("GET", "m").body == PART


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", "", "1" * 20])
def test_part_numbers(wire: Wire, number: str) -> None:
    upload = _initiate(wire)
    reply = wire("PUT", "m", {"partNumber": number, "uploadId": upload}, body=b"x")
    assert (reply.status, reply.code) == (400, "InvalidArgument")


def test_abort(wire: Wire, tmp_path: Path) -> None:
    upload = _initiate(wire)
    _part(wire, upload, 1, PART)
    assert _blob_files(tmp_path) == 1
    assert wire("DELETE", "m", {"uploadId": upload}).status == 204
    assert _blob_files(tmp_path) == 0
    for reply in (
        wire("DELETE", "m", {"uploadId": upload}),
        wire("PUT", "m", {"partNumber": "1", "uploadId": upload}, body=PART),
        wire("GET", "m", {"uploadId": upload}),
    ):
        assert (reply.status, reply.code) == (404, "NoSuchUpload")
    assert _blob_files(tmp_path) == 0


def test_part_copies(wire: Wire, tmp_path: Path) -> None:
    source_upload = _initiate(wire, "s")
    etags = [
        (n, _part(wire, source_upload, n, data, "s")) for n, data in ((1, PART), (2, PART[::-1]), (3, b"end"))
    ]
    _complete(wire, source_upload, etags, "s")
    source = PART + PART[::-1] + b"end"
    upload = _initiate(wire)
    headers = {"x-oss-copy-source": "/demo/s"}
    pieces, listed = [], []
    for number, (text, first, last) in enumerate(
        [
            ("bytes=1000-3000", 1000, 3000),
            ("bytes=0-2047", 0, 2047),
            ("bytes=2048-4098", 2048, 4098),
            ("", 0, 4098),
            ("bytes=5-99999", 0, 4098),
            ("junk", 0, 4098),
        ],
        1,
    ):
        more = {"x-oss-copy-source-range": text} if text else {}
        reply = wire("PUT", "m", {"partNumber": str(number), "uploadId": upload}, {**headers, **more})
        piece = source[first : last + 1]
        assert reply.xml.findtext("ETag") == f'"{hashlib.md5(piece).hexdigest().upper()}"'
        assert reply.headers["x-oss-hash-crc64ecma"] == str(fastcrc.crc64.xz(piece))
        pieces.append(piece)
        listed.append((number, reply.headers["ETag"]))
    # No byte was written for the copies, and deleting the source does not hurt them.
    assert _blob_files(tmp_path) == 2
    wire("DELETE", "s")
    reply = _complete(wire, upload, listed)
    assert reply.headers["x-oss-hash-crc64ecma"] == str(fastcrc.crc64.xz(b"".join(pieces)))
    assert wire("GET", "m").body == b"".join(pieces)
    wire("DELETE", "m")
    assert _blob_files(tmp_path) == 0


def test_part_copies_that_are_refused(wire: Wire) -> None:
    upload = _initiate(wire)
    wire("PUT", "s", body=PART)
    params = {"partNumber": "1", "uploadId": upload}
    for headers, status, code in (
        ({"x-oss-copy-source": "/demo/absent"}, 404, "NoSuchKey"),
        ({"x-oss-copy-source": "/nowhere/s"}, 404, "NoSuchBucket"),
        ({"x-oss-copy-source": "junk"}, 400, "InvalidArgument"),
        ({"x-oss-copy-source": "/demo/s", "x-oss-copy-source-if-match": "x"}, 412, "PreconditionFailed"),
    ):
        reply = wire("PUT", "m", params, headers)
        assert (reply.status, reply.code) == (status, code)
    bad = wire("PUT", "m", {**params, "uploadId": "0" * 32}, {"x-oss-copy-source": "/demo/s"})
    assert bad.code == "NoSuchUpload"


def test_a_part_copied_many_times_is_stored_once(wire: Wire, tmp_path: Path) -> None:
    wire("PUT", "zeros", body=bytes(4096))
    upload = _initiate(wire)
    listed = []
    for number in range(1, 301):
        params = {"partNumber": str(number), "uploadId": upload}
        reply = wire("PUT", "m", params, {"x-oss-copy-source": "/demo/zeros"})
        listed.append((number, reply.headers["ETag"]))
    assert _complete(wire, upload, listed).status == 200
    assert wire("GET", "m").body == bytes(4096 * 300)
    assert _blob_files(tmp_path) == 1


def test_sequential_uploads(wire: Wire) -> None:
    upload = _initiate(wire, sequential="")
    _part(wire, upload, 1, PART)
    reply = wire("PUT", "m", {"partNumber": "3", "uploadId": upload}, body=PART)
    assert (reply.status, reply.code) == (400, "PartNotSequential")
    _part(wire, upload, 2, PART)
    _part(wire, upload, 1, PART)


def test_list_parts(wire: Wire, bucket: oss2.Bucket) -> None:
    upload = _initiate(wire, "k ü")
    etags = [_part(wire, upload, number, b"x" * number, "k ü").strip('"') for number in range(1, 8)]
    found = list(oss2.PartIterator(bucket, "k ü", upload, max_parts=3))
    assert [(p.part_number, p.size, p.etag) for p in found] == [(n, n, etags[n - 1]) for n in range(1, 8)]
    page = wire("GET", "k ü", {"uploadId": upload, "max-parts": "3", "part-number-marker": "2"}).xml
    assert [p.findtext("PartNumber") for p in page.findall("Part")] == ["3", "4", "5"]
    assert (page.findtext("IsTruncated"), page.findtext("NextPartNumberMarker")) == ("true", "5")
    assert page.find("Part").findtext("HashCrc64ecma") == str(fastcrc.crc64.xz(b"xxx"))  # type: ignore[union-attr]
    assert wire("GET", "k ü", {"uploadId": upload, "max-parts": "1001"}).code == "InvalidArgument"


def test_list_uploads(wire: Wire, bucket: oss2.Bucket) -> None:
    made = []
    for key in ("a", "a", "a", "d/1", "d/2", "z ü"):
        made.append((key, _initiate(wire, key)))
    made.sort()
    for limit in (1, 2, 3, 1000):
        found = list(oss2.MultipartUploadIterator(bucket, max_uploads=limit))
        assert [(u.key, u.upload_id) for u in found] == made
        found = list(oss2.MultipartUploadIterator(bucket, delimiter="/", max_uploads=limit))
        assert [u.key for u in found] == ["a", "a", "a", "d/", "z ü"]
        assert [u.is_prefix() for u in found] == [False, False, False, True, False]
    assert [u.key for u in oss2.MultipartUploadIterator(bucket, prefix="d/")] == ["d/1", "d/2"]
    assert [u.upload_id for u in oss2.ObjectUploadIterator(bucket, "a")] == [i for k, i in made if k == "a"]
    after = wire("GET", params={"uploads": "", "key-marker": "a"}).xml
    assert [u.findtext("Key") for u in after.findall("Upload")] == ["d/1", "d/2", "z ü"]
    assert wire("GET", params={"uploads": "", "max-uploads": "0"}).code == "InvalidArgument"


def test_ten_thousand_parts(wire: Wire) -> None:
    wire("PUT", "piece", body=PART)
    upload = _initiate(wire)
    service = wire.server._service
    bucket = service.index.bucket("demo")
    from ossfs.server.uploads import Part

    source = service.index.get_existing(bucket, b"piece")
    with service.database.transaction():
        row = service.uploads.get(bucket, b"m", upload)
        for number in range(1, 10001):
            part = Part(number, source.size, source.mtime, source.etag, source.crc, source.extents)
            service.uploads.put_part(row, part)
    reply = wire("POST", "m", {"uploadId": upload}, {"x-oss-complete-all": "yes"})
    assert reply.status == 200
    got = wire("GET", "m")
    assert got.headers["x-oss-hash-crc64ecma"] == str(fastcrc.crc64.xz(got.body))
    assert len(got.body) == 10000 * len(PART)
    wire("DELETE", "m")
    wire("DELETE", "piece")
    assert service.database.execute("SELECT count(*) FROM blob").fetchone()[0] == 0
