"""The error answers of the service: one exception type and the table of its codes.

`OssError` carries everything that the XML body of an error needs. Raising it is the only way in
which an operation refuses; the front (http.py) turns it into an answer. Stateless: safe in every thread.
"""

from __future__ import annotations

from collections.abc import Iterable

from ossfs.server.xmltext import escape_lossy

# code -> (status, detailed error code, message)
CODES: dict[str, tuple[int, str, str]] = {
    "NoSuchKey": (404, "0026-00000001", "The specified key does not exist."),
    "NoSuchBucket": (404, "0015-00000101", "The specified bucket does not exist."),
    "NoSuchUpload": (
        404,
        "0042-00000104",
        "The specified upload does not exist. The upload ID may be invalid, "
        "or the upload may have been aborted or completed.",
    ),
    "NoSuchVersion": (404, "", "The specified version does not exist."),
    "SymlinkTargetNotExist": (404, "", "The symlink target object does not exist."),
    "AccessDenied": (403, "0003-00000001", "You have no right to access this object because of bucket acl."),
    "InvalidAccessKeyId": (
        403,
        "0002-00000902",
        "The OSS Access Key Id you provided does not exist in our records.",
    ),
    "SignatureDoesNotMatch": (
        403,
        "0002-00000040",
        "The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method.",
    ),
    "RequestTimeTooSkewed": (
        403,
        "0002-00000504",
        "The difference between the request time and the current time is too large.",
    ),
    "SecurityTokenExpired": (403, "", "The security token you provided has expired."),
    "InvalidSecurityToken": (403, "", "The security token you provided is invalid."),
    "AccessKeyIdAndSecurityTokenNotMatch": (
        403,
        "",
        "The access key ID and security token you provided do not match.",
    ),
    "InvalidObjectState": (403, "", "The operation is not valid for the object's state."),
    "BucketAlreadyExists": (
        409,
        "0015-00000104",
        "The requested bucket name is not available. The bucket namespace is shared by all users of the "
        "system. Please select a different name and try again.",
    ),
    "BucketNotEmpty": (409, "0015-00000301", "The bucket has objects. Please delete them first."),
    "FileAlreadyExists": (
        409,
        "0026-00000002",
        "The object you specified already exists and can not be overwritten.",
    ),
    "ObjectNotAppendable": (409, "", "The object is not appendable."),
    "PositionNotEqualToLength": (409, "0026-00000016", "Position is not equal to file length"),
    "RestoreAlreadyInProgress": (409, "", "The restore operation is in progress."),
    "InvalidArgument": (400, "", "Invalid Argument."),
    "InvalidRequest": (400, "", "Invalid Request."),
    "InvalidObjectName": (400, "0016-00000003", "The specified object is not valid."),
    "InvalidBucketName": (400, "", "The specified bucket is not valid."),
    "InvalidDigest": (400, "", "The Content-MD5 you specified was invalid."),
    "InvalidCRC64": (400, "", "The x-oss-hash-crc64ecma you specified does not match what we calculated."),
    "IncompleteBody": (400, "", "The request body is incomplete."),
    "RequestTimeout": (
        400,
        "",
        "Your socket connection to the server was not read from or written to within the timeout period. "
        "Idle connections will be closed.",
    ),
    "InvalidPart": (
        400,
        "",
        "One or more of the specified parts could not be found or the specified entity tag might not have "
        "matched the part's entity tag.",
    ),
    "InvalidPartOrder": (
        400,
        "",
        "The list of parts was not in ascending order. Parts list must specified in order by part number.",
    ),
    "PartNotSequential": (400, "", "Part does not arrive sequentially."),
    "EntityTooSmall": (
        400,
        "0042-00000213",
        "Your proposed upload smaller than the minimum allowed size.",
    ),
    "EntityTooLarge": (400, "", "Your proposed upload exceeds the maximum allowed size."),
    "MalformedXML": (400, "0016-00000608", "The XML you provided was not well-formed."),
    "MissingArgument": (400, "0016-00000502", "Missing Some Required Arguments."),
    "NotImplemented": (
        400,
        "0017-00000245",
        "A header you provided implies functionality that is not implemented.",
    ),
    "InvalidTargetType": (400, "0026-00000011", "The symbolic's target file type is invalid"),
    "NotSymlink": (400, "", "The object is not symlink."),
    "OperationNotSupported": (400, "0016-00000702", "The operation is not supported for this object."),
    "InvalidEncryptionAlgorithmError": (400, "", "The Encryption Method is not supported."),
    "InvalidTag": (400, "", "The tag you specified is not valid."),
    "PreconditionFailed": (412, "", "At least one of the pre-conditions you specified did not hold."),
    "NotModified": (304, "", ""),
    "InvalidRange": (416, "", "The requested range cannot be satisfied"),
    "MissingContentLength": (411, "", "You must provide the Content-Length HTTP header."),
    "MethodNotAllowed": (405, "", "The specified method is not allowed against this resource."),
    "InternalError": (500, "", "We encountered an internal error. Please try again."),
    "ServiceUnavailable": (503, "", "Thread pool is almost full, please retry later."),
}


class OssError(Exception):
    """A refusal: `fields` are further elements of the body, `headers` of the answer."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        status: int | None = None,
        ec: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        close: bool = False,
        **fields: str,
    ) -> None:
        known = CODES.get(code, (400, "", code))
        self.code = code
        self.status = known[0] if status is None else status
        self.ec = known[1] if ec is None else ec
        self.message = known[2] if message is None else message
        self.fields = fields
        self.headers = list(headers)
        # True: the connection is not in a state in which another request could be read.
        self.close = close
        super().__init__(f"{self.status} {code}: {self.message}")

    def to_xml(self, request_id: str, host: str) -> bytes:
        """The body; HEAD sends the same in base64."""
        parts = [
            '<?xml version="1.0" encoding="UTF-8"?>\n<Error>\n',
            f"  <Code>{escape_lossy(self.code)}</Code>\n  <Message>{escape_lossy(self.message)}</Message>\n",
            f"  <RequestId>{request_id}</RequestId>\n  <HostId>{escape_lossy(host)}</HostId>\n",
        ]
        parts += [f"  <{name}>{escape_lossy(value)}</{name}>\n" for name, value in self.fields.items()]
        if self.ec:
            parts.append(f"  <EC>{self.ec}</EC>\n")
            parts.append(f"  <RecommendDoc>https://api.aliyun.com/troubleshoot?q={self.ec}</RecommendDoc>\n")
        parts.append("</Error>\n")
        return "".join(parts).encode()


def invalid_argument(message: str, name: str, value: str, ec: str = "") -> OssError:
    """A 400 that names the argument at fault."""
    return OssError("InvalidArgument", message, ec=ec, ArgumentName=name, ArgumentValue=value)
