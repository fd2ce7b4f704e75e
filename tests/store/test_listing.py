"""Listings: what is read, what is refused, and that the parser agrees with a plain reading of the XML."""

from __future__ import annotations

import time
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossfs.errors import ServerFault
from ossfs.store.base import ListedObject
from ossfs.store.listing import decode, parse_deleted, parse_listing, parse_time, parse_uploads, parse_xml

EMPTY = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


def page_of(inner: str, encoding: str = "<EncodingType>url</EncodingType>") -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{head}<ListBucketResult>{encoding}{inner}</ListBucketResult>".encode()


def entry(key: str, size: object = 5, when: str = "2023-11-14T22:13:20.000Z") -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{when}</LastModified><ETag>&quot;ABC&quot;</ETag>"
        f"<Type>Multipart</Type><Size>{size}</Size><StorageClass>IA</StorageClass>"
        "<Owner><ID>1</ID><DisplayName>1</DisplayName></Owner></Contents>"
    )


def test_entries() -> None:
    page = parse_listing(
        page_of(entry("a%2Fb%20c") + "<CommonPrefixes><Prefix>d%2F</Prefix></CommonPrefixes>"), 7
    )
    assert page.objects == [ListedObject("a/b c", 5, "ABC", 1700000000, "Multipart", "IA")]
    assert (page.prefixes, page.next_marker, page.server_date, page.undecodable) == (["d/"], None, 7, 0)


def test_markers() -> None:
    truncated = "<IsTruncated>true</IsTruncated><NextMarker>n%2Fm</NextMarker>"
    assert parse_listing(page_of(truncated), 0).next_marker == "n/m"
    assert parse_listing(page_of(truncated, ""), 0).next_marker == "n%2Fm"
    odd = "<IsTruncated>true</IsTruncated><NextMarker>%FF</NextMarker>"
    assert parse_listing(page_of(odd), 0).next_marker == "\udcff"
    with pytest.raises(ServerFault):
        parse_listing(page_of("<IsTruncated>true</IsTruncated>"), 0)


def test_keys_that_are_not_utf8_are_counted() -> None:
    inner = entry("ok") + entry("%FF%FE") + "<CommonPrefixes><Prefix>%C0%2F</Prefix></CommonPrefixes>"
    page = parse_listing(page_of(inner), 0)
    assert ([found.key for found in page.objects], page.prefixes, page.undecodable) == (["ok"], [], 2)


def test_only_percent_is_undone() -> None:
    assert decode("a+b%2B%20") == "a+b+ "


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=40), st.integers(0, 1 << 50), st.integers(0, 4_000_000_000)),
        max_size=20,
    ),
    st.booleans(),
)
def test_every_key_comes_back(entries: list[tuple[str, int, int]], url: bool) -> None:
    def name(key: str) -> str:
        return quote(key, safe="") if url else escape(key)

    entries = [
        item
        for item in entries
        if url or all(c in "\t\n" or " " <= c < "\ufffe" or c > "\uffff" for c in item[0])
    ]
    inner = "".join(
        entry(name(key), size, time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(when)))
        for key, size, when in entries
    )
    page = parse_listing(page_of(inner, "<EncodingType>url</EncodingType>" if url else ""), 0)
    assert [(found.key, found.size, found.last_modified) for found in page.objects] == entries


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    for document in (data, EMPTY[:20] + data, EMPTY[:-20] + data):
        try:
            parse_listing(document, 0)
        except ServerFault:
            pass


@pytest.mark.parametrize(
    "document",
    [
        b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult>&a;</ListBucketResult>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><ListBucketResult/>',
        b"<!DOCTYPE ListBucketResult><ListBucketResult/>",
        b"<ListBucketResult>&undefined;</ListBucketResult>",
        b"<Other/>",
        b"",
        page_of(entry("k", "x")),
        page_of(entry("k", when="yesterday")),
        page_of(entry("k", when="2023-13-99T22:13:20.000Z"))[:-5],
    ],
    ids=range(9),
)
def test_what_is_refused(document: bytes) -> None:
    with pytest.raises(ServerFault):
        parse_listing(document, 0)


def test_times() -> None:
    assert parse_time("1970-01-01T00:00:00.000Z") == 0
    assert parse_time("2100-02-28T23:59:59.000Z") == 4107542399


def test_uploads() -> None:
    upload = (
        "<Upload><Key>a%2Fb</Key><UploadId>U1</UploadId><StorageClass>Standard</StorageClass>"
        "<Initiated>2023-11-14T22:13:20.000Z</Initiated></Upload>"
    )
    head = "<ListMultipartUploadsResult><EncodingType>url</EncodingType>"
    tail = "</ListMultipartUploadsResult>"
    uploads, more = parse_uploads(f"{head}<IsTruncated>false</IsTruncated>{upload}{tail}".encode())
    assert (uploads[0].key, uploads[0].upload_id, uploads[0].initiated, more) == (
        "a/b",
        "U1",
        1700000000,
        None,
    )
    markers = "<NextKeyMarker>a%2Fb</NextKeyMarker><NextUploadIdMarker>U1</NextUploadIdMarker>"
    _, more = parse_uploads(f"{head}<IsTruncated>true</IsTruncated>{markers}{upload}{tail}".encode())
    assert more == ("a/b", "U1")
    with pytest.raises(ServerFault):
        parse_uploads(f"{head}<IsTruncated>true</IsTruncated>{tail}".encode())


def test_deleted() -> None:
    document = (
        "<DeleteResult><EncodingType>url</EncodingType><Deleted><Key>a%0Ab</Key></Deleted>"
        "<Deleted><Key>c</Key></Deleted></DeleteResult>"
    )
    assert parse_deleted(document.encode()) == {"a\nb", "c"}


def test_xml_is_utf8_by_itself() -> None:
    assert parse_xml("<x>é</x>".encode()).text == "é"
