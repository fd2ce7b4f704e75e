"""One connection: read a request, decide, answer, again.

Threads: `serve_connection` is the body of a connection's own thread and everything here runs in it.
Scripted faults act here, around the operations, which don't know of them (but for a flipped byte).
"""

from __future__ import annotations

import base64
import itertools
import logging
import select
import socket
import time

from ossfs.server import control, routing
from ossfs.server.auth import Signed
from ossfs.server.errors import CODES, OssError, invalid_argument
from ossfs.server.faults import Rule
from ossfs.server.model import Answer, Content, Request, Service
from ossfs.server.wire import Body, Connection, Disconnected, Head, encode_headers

log = logging.getLogger("ossfs.server")

_REASONS = {
    200: "OK",
    202: "Accepted",
    204: "No Content",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    411: "Length Required",
    412: "Precondition Failed",
    416: "Requested Range Not Satisfiable",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_BODILESS = (204, 304)
# What is left of a refused body is read up to here, so that the connection can go on.
_MAX_DRAIN = 1 << 30
_MIN_TRAFFIC, _MAX_TRAFFIC = 819200, 838860800
_PUBLIC_READS = frozenset({"Get", "Head", "ObjectMeta"})
_requests = itertools.count(1)


def serve_connection(service: Service, sock: socket.socket) -> None:
    """Until the peer leaves, an error makes the stream unreadable, or the server stops."""
    connection = Connection(sock)
    connection.set_send_timeout(service.config.body_timeout)
    try:
        while not service.stopping.is_set():
            connection.set_receive_timeout(service.config.idle_timeout)
            try:
                head = connection.read_head()
            except OssError as error:
                _refuse(service, connection, error)
                connection.finish()
                return
            if head is None:
                return
            connection.set_receive_timeout(service.config.body_timeout)
            if not _Exchange(service, connection, head).run():
                connection.finish()
                return
    except Disconnected:
        pass  # by the peer, by a fault, or by stop()
    except Exception:
        # Half an answer may be out: all that is left is to close.
        log.exception("an answer broke off")


def _request_id(service: Service) -> str:
    return f"{int(service.clock.now()) & 0xFFFFFFFF:08X}{next(_requests):016X}"


def _error_answer(error: OssError, request: Request) -> Answer:
    headers = list(error.headers)
    if error.ec:
        headers.append(("x-oss-ec", error.ec))
    if error.status == 304:
        return Answer(304, headers)
    body = error.to_xml(request.id, request.host)
    headers.append(("Content-Type", "application/xml"))
    if request.method == "HEAD":
        headers.append(("x-oss-err", base64.b64encode(body).decode()))
        body = b""
    return Answer(error.status, headers, body, close=error.close)


def _refuse(service: Service, connection: Connection, error: OssError) -> None:
    """Answer something that never became a request."""
    request = Request("", {}, _request_id(service))
    answer = _error_answer(error, request)
    service.stats.begin("Malformed")
    service.stats.end(answer.status, 0, len(answer.body))
    connection.send(_head_bytes(service, request, answer, len(answer.body), 0, False) + answer.body)


def _head_bytes(
    service: Service, request: Request, answer: Answer, length: int, milliseconds: int, keep_alive: bool
) -> bytes:
    headers = [
        ("Server", "AliyunOSS"),
        ("Date", service.clock.date()),
        ("Connection", "keep-alive" if keep_alive else "close"),
        ("x-oss-request-id", request.id),
        ("x-oss-server-time", str(milliseconds)),
        *answer.headers,
    ]
    if answer.status not in _BODILESS:
        headers.append(("Content-Length", str(length)))
    reason = _REASONS.get(answer.status, "Unknown")
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (answer.status, reason.encode(), encode_headers(headers))


class _Exchange:
    """One request and its answer."""

    __slots__ = ("body", "connection", "counted", "head", "request", "service", "started")

    def __init__(self, service: Service, connection: Connection, head: Head) -> None:
        self.service = service
        self.connection = connection
        self.head = head
        self.started = time.monotonic()
        self.request = Request(head.method, head.headers, _request_id(service))
        self.body: Body | None = None
        self.counted = False

    def run(self) -> bool:
        """Whether the connection can go on."""
        try:
            answer = self._decide()
            try:
                return self._send(answer)
            finally:
                if answer.content is not None:
                    answer.content.close()
        finally:
            self._count(0, 0)

    # Deciding

    def _decide(self) -> Answer:
        request = self.request
        try:
            self.body = request.body = Body(self.connection, self.head)
            path, query = routing.split_target(self.head.target)
            if (
                self.service.config.control
                and path.startswith(control.PREFIX)
                and not routing.host_bucket(self.service, request.host)
            ):
                # Not counted: who reads the counters must not change them.
                request.op, self.counted = "Control", True
                return control.handle(self.service, request, path, query)
            return self._operate(path, query)
        except OssError as error:
            if not request.op:
                self._begin("Invalid")
            return _error_answer(error, request)
        except Disconnected:
            raise
        except Exception:
            # Whatever went wrong, the client gets an answer.
            log.exception("%s %s failed", request.method, request.op)
            return _error_answer(OssError("InternalError", close=True), request)

    def _begin(self, op: str) -> None:
        self.request.op = op
        self.service.stats.begin(op)

    def _operate(self, path: str, query: str) -> Answer:
        service, request = self.service, self.request
        routing.address(service, request, path, query)
        operation = routing.operation(request)
        self._begin(operation.name)
        self.connection.bandwidth = service.bandwidth
        self._plan()
        if service.latency:
            service.stopping.wait(service.latency)
        self._authenticate()
        routing.check_names(request)
        self._check_payer()
        self._limit_traffic()
        return operation.handler(service, request)

    def _plan(self) -> None:
        """Let the script act on what comes before the operation."""
        service, request = self.service, self.request
        part = request.params.get("partNumber", "")
        number = int(part) if part.isascii() and part.isdigit() and len(part) < 10 else None
        plan, fired = service.faults.plan(request.op, request.key, number)
        for action in fired:
            service.stats.fault(action)
        request.plan = plan
        if plan.bandwidth:
            self.connection.bandwidth = max(1, int(plan.bandwidth))
        if plan.delay:
            service.stopping.wait(plan.delay)
        rule = plan.rule
        if rule is None:
            return
        if rule.action == "reset":
            self.connection.reset()
        elif rule.action == "stall":
            self._stall()
        elif rule.action == "status":
            raise _scripted_error(rule)

    def _stall(self) -> None:
        """Say nothing until the peer gives up or the server stops; what it still sends is dropped."""
        sock = self.connection.sock
        # Not select(2), which ends at descriptor 1023.
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while not self.service.stopping.is_set():
            try:
                if poll.poll(200) and not sock.recv(65536):
                    break
            except OSError:
                break
        raise Disconnected

    def _check_payer(self) -> None:
        """x-oss-request-payer, in the header or the query."""
        name = "x-oss-request-payer"
        said = self.request.headers.get(name) or self.request.params.get(name, "")
        if said not in ("", "requester"):
            raise invalid_argument("The payer is not valid.", name, said)
        if self.service.requester_pays and not said:
            raise OssError("AccessDenied", "The bucket's requests are paid by who makes them.", ec="")

    def _limit_traffic(self) -> None:
        """x-oss-traffic-limit, in the header or the query: bits a second."""
        name = "x-oss-traffic-limit"
        texts = [place[name] for place in (self.request.headers, self.request.params) if name in place]
        if not texts:
            return
        limit = int(texts[0]) if texts[0].isascii() and texts[0].isdigit() and len(texts[0]) < 12 else 0
        if len(texts) > 1 or not _MIN_TRAFFIC <= limit <= _MAX_TRAFFIC:
            raise invalid_argument("The traffic limit is not valid.", name, texts[0])
        speed = limit // 8
        self.connection.bandwidth = min(speed, self.connection.bandwidth or speed)

    def _authenticate(self) -> None:
        request, service = self.request, self.service
        signed = Signed(request.method, request.bucket_name, request.key, request.query, request.headers)
        if service.auth.check(signed):
            return
        if request.op in _PUBLIC_READS:
            bucket = service.index.find_bucket(request.bucket_name)
            record = None if bucket is None else service.index.get(bucket, request.key_bytes)
            if bucket is not None and record is not None:
                acl = bucket.acl if record.props.acl == "default" else record.props.acl
                if acl.startswith("public-read"):
                    if any(name.startswith("response-") for name in request.params):
                        raise OssError(
                            "InvalidRequest", "Anonymous requests can't override response headers."
                        )
                    return
        raise OssError("AccessDenied")

    # Answering

    def _count(self, status: int, bytes_out: int) -> None:
        """The request is over, as far as counters go: before the client can see the end of the answer."""
        if not self.counted:
            self.counted = True
            if self.request.op:
                received = 0 if self.body is None else self.body.received
                self.service.stats.end(status, received, bytes_out)

    def _send(self, answer: Answer) -> bool:
        request, connection, plan = self.request, self.connection, self.request.plan
        body = self.body
        if plan.is_action("lose"):
            connection.reset()
        is_head = request.method == "HEAD"
        length = answer.length if answer.length and not answer.body else len(answer.body)
        content = None if is_head or not answer.length else answer.content
        keep_alive = self.head.keep_alive and not answer.close
        if body is None or body.is_withheld:
            keep_alive = False
        milliseconds = int((time.monotonic() - self.started) * 1000)
        head = _head_bytes(self.service, request, answer, length, milliseconds, keep_alive)
        data = b"" if is_head else answer.body
        if plan.is_action("flip") and data and request.op in ("Get", "List"):
            data = bytes((data[0] ^ 1,)) + data[1:]
        if plan.is_action("cut") and plan.rule is not None:
            self._send_cut(answer, head, data, content, plan.rule.after)
            return False
        if content is not None:
            connection.send(head, more=True)
            self._send_content(answer, content, answer.length)
        elif connection.bandwidth and data:
            connection.send(head, more=True)
            connection.send_body(data[:-1])
            self._count(answer.status, len(data))
            connection.send_body(data[-1:])
        else:
            self._count(answer.status, len(data))
            connection.send(head + data)
        return keep_alive and self._drain()

    def _send_cut(
        self, answer: Answer, head: bytes, data: bytes, content: Content | None, after: int
    ) -> None:
        """The head, `after` bytes of the body, and the end of the stream."""
        self.connection.send(head, more=True)
        if content is None:
            self._count(answer.status, min(after, len(data)))
            self.connection.send(data[:after])
        elif after:
            self._send_content(answer, content, min(after, answer.length))

    def _send_content(self, answer: Answer, content: Content, length: int) -> None:
        connection = self.connection
        start = answer.start
        if self.request.plan.is_action("flip"):
            # One wrong byte at the front: the headers tell the truth.
            for piece in content.pieces(start, 1):
                data = piece if isinstance(piece, bytes) else control.read_file(piece)
                connection.send_body(bytes((data[0] ^ 1,)))
            start, length = start + 1, length - 1
            if not length:
                self._count(answer.status, answer.length)
                return
        buffer = self.service.database.files.take_buffer()
        remaining = length
        try:
            for piece in content.pieces(start, length):
                size = len(piece) if isinstance(piece, bytes) else piece[2]
                remaining -= size
                # The last byte waits until the request is counted as over, so that a client that
                # counts its own requests never sees one more in flight than it made.
                early = size if remaining else size - 1
                self._send_piece(piece, 0, early, buffer)
                if not remaining:
                    self._count(answer.status, answer.length)
                    self._send_piece(piece, early, size, buffer)
        finally:
            self.service.database.files.give_buffer(buffer)

    def _send_piece(
        self, piece: bytes | tuple[int, int, int], begin: int, end: int, buffer: bytearray
    ) -> None:
        if isinstance(piece, bytes):
            self.connection.send_body(piece[begin:end])
        elif end > begin:
            self.connection.send_file(piece[0], piece[1] + begin, end - begin, buffer)

    def _drain(self) -> bool:
        """Read what is left of the body after an early answer; False: it can't be."""
        body = self.body
        if body is None or body.is_done:
            return True
        buffer = self.service.database.files.take_buffer()
        try:
            return body.drain(_MAX_DRAIN, buffer)
        except OssError:
            return False
        finally:
            self.service.database.files.give_buffer(buffer)


def _scripted_error(rule: Rule) -> OssError:
    code = rule.code
    if not code:
        code = next((name for name, known in CODES.items() if known[0] == rule.status), "InternalError")
    return OssError(code, rule.message or None, status=rule.status)
