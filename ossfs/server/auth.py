"""Who sent a request: signatures V1 and V4, in the header and in the URL, and the security token.

Both string-to-sign constructions are functions of plain values, so that published vectors can be
asserted. Threads: an `Authenticator` is read by all of them; what tests change on it (tokens) are single
assignments of immutable values.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from ossfs.server.clock import Clock, parse_basic_date, parse_http_date, xml_date
from ossfs.server.errors import OssError, invalid_argument

MAX_SKEW = 900
MAX_EXPIRES = 604800
Pairs = Sequence[tuple[str, str]]

SUB_RESOURCES = frozenset(
    """
    response-content-type response-content-language response-cache-control response-content-encoding
    response-content-disposition response-expires acl append position bucketInfo callback callback-var
    continuation-token cors delete encryption lifecycle link live location logging objectInfo objectMeta
    partNumber policy qos qosInfo referer replication requestPayment x-oss-request-payer resourceGroup restore
    security-token sequential stat status style styleName symlink tagging transferAcceleration uploadId
    uploads versionId versioning versions vod website worm wormId wormExtend x-oss-process x-oss-async-process
    x-oss-traffic-limit startTime endTime comp cname inventory inventoryId asyncFetch metaQuery regionList
    httpsConfig accessPoint accessPointPolicy publicAccessBlock redundancyTransition x-oss-ac-source-ip
    x-oss-ac-subnet-mask x-oss-ac-vpc-id x-oss-ac-forward-allow x-oss-dir x-oss-rename x-oss-delete seal
    replicationLocation replicationProgress bucketArchiveDirectRead group qosRequester requesterQosInfo
    resourcePool resourcePoolInfo resourcePoolBuckets x-oss-access-point-name
    x-oss-redundancy-transition-taskid x-oss-target-redundancy-type x-oss-write-get-object-response
    """.split()
)


class Signed(NamedTuple):
    """The parts of a request that a signature covers; header names are lower-case."""

    method: str
    bucket: str
    key: str
    query: Pairs
    headers: Mapping[str, str]


def resource_path(bucket: str, key: str) -> str:
    """`/bucket/key`, `/bucket/` or `/`, unencoded."""
    return f"/{bucket}/{key}" if bucket else "/"


def string_to_sign_v1(request: Signed, date: str) -> str:
    """`date` is the Date line: the header, or Expires of a presigned URL."""
    headers = request.headers
    lines = [request.method, headers.get("content-md5", ""), headers.get("content-type", ""), date]
    lines += [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-oss-")]
    resource = resource_path(request.bucket, request.key)
    if request.query:
        signed: dict[str, str] = {}
        for name, value in request.query:
            if name in SUB_RESOURCES:
                signed.setdefault(name, value)
        if signed:
            pairs = (f"{name}={value}" if value else name for name, value in sorted(signed.items()))
            resource += "?" + "&".join(pairs)
    lines.append(resource)
    return "\n".join(lines)


def signature_v1(secret: str, string_to_sign: str) -> str:
    """Base64 of HMAC-SHA1."""
    digest = hmac.digest(secret.encode(), string_to_sign.encode(), "sha1")
    return base64.b64encode(digest).decode()


def canonical_request_v4(request: Signed, additional: Collection[str], *, skip: Collection[str] = ()) -> str:
    """`skip` are query parameters left out (the signature itself)."""
    headers = request.headers
    pairs = sorted(
        (quote(name, safe=""), quote(value, safe="")) for name, value in request.query if name not in skip
    )
    query = "&".join(f"{name}={value}" if value else name for name, value in pairs)
    extra = set(additional)
    lines = [
        f"{name}:{headers[name]}\n"
        for name in sorted(headers)
        if name in ("content-type", "content-md5") or name.startswith("x-oss-") or name in extra
    ]
    path = quote(resource_path(request.bucket, request.key), safe="/")
    return "\n".join(
        (request.method, path, query, "".join(lines), ";".join(sorted(extra)), "UNSIGNED-PAYLOAD")
    )


def string_to_sign_v4(date: str, scope: str, canonical: str) -> str:
    """`scope` is <day>/<region>/oss/aliyun_v4_request."""
    return f"OSS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str, product: str) -> bytes:
    key = ("aliyun_v4" + secret).encode()
    for part in (day, region, product, "aliyun_v4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signature_v4(secret: str, scope: str, string_to_sign: str) -> str:
    """Lower-case hex HMAC-SHA256 under the derived key."""
    day, region, product, _ = scope.split("/")
    return hmac.digest(_signing_key(secret, day, region, product), string_to_sign.encode(), "sha256").hex()


class Credential(NamedTuple):
    """The parsed pieces of a V4 authorization, from the header or the URL."""

    access_key_id: str
    scope: str
    additional: tuple[str, ...]
    signature: str


class Authenticator:
    """Checks requests against the one pair of keys that the server has."""

    def __init__(self, access_key_id: str, secret: str, region: str, token: str | None, clock: Clock) -> None:
        self.access_key_id = access_key_id
        self._secret = secret
        self._region = region
        self._clock = clock
        # Requests must carry this token, if there is one.
        self.token = token
        self.expired_tokens: frozenset[str] = frozenset()

    def check(self, request: Signed) -> bool:
        """True: signed by the owner. False: anonymous. OssError: a signature that is wrong."""
        authorization = request.headers.get("authorization")
        names = {name for name, _ in request.query} if request.query else ()
        in_query_v4 = "x-oss-signature-version" in names or "x-oss-signature" in names
        in_query_v1 = not in_query_v4 and ("Signature" in names or "OSSAccessKeyId" in names)
        if authorization is not None:
            if in_query_v1 or in_query_v4:
                raise invalid_argument(
                    "Only one auth mechanism allowed: the Authorization header or the query string.",
                    "Authorization",
                    authorization,
                )
            if authorization.startswith("OSS4-HMAC-SHA256 "):
                self._check_header_v4(request, authorization)
            elif authorization.startswith("OSS "):
                self._check_header_v1(request, authorization)
            else:
                raise _bad_authorization(authorization)
            return True
        if in_query_v4:
            self._check_url_v4(request)
        elif in_query_v1:
            self._check_url_v1(request)
        else:
            return False
        return True

    # V1

    def _check_header_v1(self, request: Signed, authorization: str) -> None:
        access_key_id, colon, signature = authorization[4:].strip().partition(":")
        if not colon or not access_key_id or not signature:
            raise _bad_authorization(authorization)
        self._check_key(access_key_id)
        date = request.headers.get("date") or request.headers.get("x-oss-date") or ""
        self._check_skew(date, parse_http_date(date))
        self._check_token(request.headers.get("x-oss-security-token"))
        self._compare(string_to_sign_v1(request, date), signature, access_key_id)

    def _check_url_v1(self, request: Signed) -> None:
        query = _first(request.query)
        if not all(name in query for name in ("OSSAccessKeyId", "Expires", "Signature")):
            raise OssError(
                "AccessDenied",
                "Query string authentication requires the Signature, Expires and OSSAccessKeyId parameters.",
            )
        expires = query["Expires"]
        if not (expires.isascii() and expires.isdigit() and len(expires) < 19):
            raise OssError("AccessDenied", "Invalid date (should be seconds since epoch).")
        if int(expires) < self._clock.now():
            raise OssError(
                "AccessDenied",
                "Request has expired.",
                Expires=xml_date(min(int(expires), 1 << 36)),
                ServerTime=xml_date(self._clock.now()),
            )
        self._check_key(query["OSSAccessKeyId"])
        self._check_token(query.get("security-token") or request.headers.get("x-oss-security-token"))
        self._compare(string_to_sign_v1(request, expires), query["Signature"], query["OSSAccessKeyId"])

    def _compare(self, string_to_sign: str, signature: str, access_key_id: str) -> None:
        expected = signature_v1(self._secret, string_to_sign)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise _mismatch(access_key_id, signature, string_to_sign)

    # V4

    def _check_header_v4(self, request: Signed, authorization: str) -> None:
        fields: dict[str, str] = {}
        for item in authorization[len("OSS4-HMAC-SHA256 ") :].split(","):
            name, equals, value = item.strip().partition("=")
            if not equals or name in fields:
                raise _bad_authorization(authorization)
            fields[name] = value
        if "Credential" not in fields or "Signature" not in fields:
            raise _bad_authorization(authorization)
        additional = fields.get("AdditionalHeaders", "")
        credential = self._parse_credential(
            fields["Credential"], additional, fields["Signature"], authorization
        )
        payload = request.headers.get("x-oss-content-sha256")
        if payload != "UNSIGNED-PAYLOAD":
            raise invalid_argument(
                "Invalid x-oss-content-sha256, only UNSIGNED-PAYLOAD is supported.",
                "x-oss-content-sha256",
                payload or "",
                "0002-00000214",
            )
        date = request.headers.get("x-oss-date", "")
        seconds = parse_basic_date(date)
        if not date:
            seconds = parse_http_date(request.headers.get("date", ""))
            if seconds is not None:
                date = _basic_date(seconds)
        self._check_skew(date, seconds)
        self._check_day(credential, date, authorization)
        self._check_token(request.headers.get("x-oss-security-token"))
        self._compare_v4(request, credential, date, skip=())

    def _check_url_v4(self, request: Signed) -> None:
        query = _first(request.query)
        needed = (
            "x-oss-signature-version",
            "x-oss-credential",
            "x-oss-date",
            "x-oss-expires",
            "x-oss-signature",
        )
        for name in needed:
            if name not in query:
                raise OssError("AccessDenied", f"Query string authentication requires the {name} parameter.")
        if query["x-oss-signature-version"] != "OSS4-HMAC-SHA256":
            raise invalid_argument(
                "Invalid signature version.", "x-oss-signature-version", query["x-oss-signature-version"]
            )
        expires, date = query["x-oss-expires"], query["x-oss-date"]
        digits = expires.isascii() and expires.isdigit() and len(expires) < 19
        if not digits or not 1 <= int(expires) <= MAX_EXPIRES:
            raise invalid_argument("Invalid expires.", "x-oss-expires", expires, "0002-00000232")
        seconds = parse_basic_date(date)
        if seconds is None:
            raise OssError("AccessDenied", "OSS authentication requires a valid Date.", ec="0002-00000503")
        now = self._clock.now()
        if seconds > now + MAX_SKEW:
            raise OssError("AccessDenied", "Request is not valid yet.", ec="0002-00000235")
        if seconds + int(expires) < now:
            raise OssError(
                "AccessDenied",
                "Request has expired.",
                Expires=xml_date(seconds + int(expires)),
                ServerTime=xml_date(now),
            )
        credential = self._parse_credential(
            query["x-oss-credential"],
            query.get("x-oss-additional-headers", ""),
            query["x-oss-signature"],
            query["x-oss-credential"],
        )
        self._check_day(credential, date, query["x-oss-credential"])
        self._check_token(query.get("x-oss-security-token") or request.headers.get("x-oss-security-token"))
        self._compare_v4(request, credential, date, skip=("x-oss-signature",))

    def _parse_credential(self, text: str, additional: str, signature: str, shown: str) -> Credential:
        access_key_id, _, scope = text.partition("/")
        parts = scope.split("/")
        if not access_key_id or len(parts) != 4 or not all(parts):
            raise _bad_authorization(shown)
        self._check_key(access_key_id)
        day, region, product, terminator = parts
        if region != self._region:
            raise invalid_argument(
                "Invalid signing region in Authorization header.", "Region", region, "0002-00000226"
            )
        if product != "oss" or terminator != "aliyun_v4_request" or not (len(day) == 8 and day.isdigit()):
            raise _bad_authorization(shown)
        names = tuple(name.strip().lower() for name in additional.split(";") if name.strip())
        return Credential(access_key_id, scope, names, signature)

    def _check_day(self, credential: Credential, date: str, shown: str) -> None:
        if credential.scope[:8] != date[:8]:
            raise invalid_argument("Invalid signing date in Authorization header.", "Authorization", shown)

    def _compare_v4(
        self, request: Signed, credential: Credential, date: str, *, skip: Collection[str]
    ) -> None:
        for name in credential.additional:
            if name not in request.headers:
                raise invalid_argument("Invalid additional headers.", "AdditionalHeaders", name)
        canonical = canonical_request_v4(request, credential.additional, skip=skip)
        to_sign = string_to_sign_v4(date, credential.scope, canonical)
        expected = signature_v4(self._secret, credential.scope, to_sign)
        if not hmac.compare_digest(expected.encode(), credential.signature.encode()):
            raise _mismatch(credential.access_key_id, credential.signature, to_sign, canonical)

    # Both

    def _check_key(self, access_key_id: str) -> None:
        if access_key_id != self.access_key_id:
            raise OssError("InvalidAccessKeyId", OSSAccessKeyId=access_key_id)

    def _check_skew(self, date: str, seconds: int | None) -> None:
        if seconds is None:
            raise OssError("AccessDenied", "OSS authentication requires a valid Date.", ec="0002-00000503")
        now = self._clock.now()
        if abs(now - seconds) > MAX_SKEW:
            raise OssError(
                "RequestTimeTooSkewed",
                MaxAllowedSkewMilliseconds=str(MAX_SKEW * 1000),
                RequestTime=xml_date(seconds),
                ServerTime=xml_date(now),
            )

    def _check_token(self, token: str | None) -> None:
        if token is not None and token in self.expired_tokens:
            raise OssError("SecurityTokenExpired")
        if token == self.token:
            return
        if token is None:
            # Temporary keys do not exist without their token.
            raise OssError("InvalidAccessKeyId", OSSAccessKeyId=self.access_key_id)
        raise OssError("InvalidSecurityToken")


def _first(query: Pairs) -> dict[str, str]:
    """Of a repeated parameter the first counts."""
    result: dict[str, str] = {}
    for name, value in query:
        result.setdefault(name, value)
    return result


def _basic_date(seconds: int) -> str:
    return xml_date(seconds)[:19].replace("-", "").replace(":", "") + "Z"


def _bad_authorization(value: str) -> OssError:
    return invalid_argument("Authorization header is invalid.", "Authorization", value)


def _mismatch(access_key_id: str, signature: str, to_sign: str, canonical: str | None = None) -> OssError:
    fields = {
        "OSSAccessKeyId": access_key_id,
        "SignatureProvided": signature,
        "StringToSign": to_sign,
        "StringToSignBytes": " ".join(f"{byte:02X}" for byte in to_sign.encode()),
    }
    if canonical is not None:
        fields["CanonicalRequest"] = canonical
    error = OssError("SignatureDoesNotMatch")
    error.fields.update(fields)
    return error


__all__ = [
    "SUB_RESOURCES",
    "Authenticator",
    "Signed",
    "canonical_request_v4",
    "signature_v1",
    "signature_v4",
    "string_to_sign_v1",
    "string_to_sign_v4",
]
