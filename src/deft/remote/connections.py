"""What a service endures: how long a connection may do nothing, how many there are, and how it ends.

uvicorn counts no connections and gives no time limit for the head of a request or for fetching an answer; both are
here, on top of its protocol over h11. The application (deft.remote.server) looks after bodies. docs/remote.md, "Under
load", has the limits.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from deft.remote.door import MAX_HEAD

IDLE_SECONDS = 75.0
"""A connection between two requests is kept so long."""
AT_ONCE = 16
"""Connections that are taken from the system at once; a few times as many are open before they are counted."""
BACKLOG = 128
"""Connections that the system keeps for us until then."""


@dataclass(frozen=True)
class Limits:
    """What one service grants its connections.

    connections: most that are open at once. head_seconds: longest from the first byte of a request to the end of its
    headers. answer_seconds: longest a client may take to fetch an answer.
    """

    connections: int = 256
    head_seconds: float = 10.0
    answer_seconds: float = 30.0


class Connection(H11Protocol):
    """uvicorn's connection, with time limits for the head of a request and for fetching an answer.

    When there are too many, the one that has been without a request for longest makes room; it need not be a stranger's
    (a client opens another). While every one has a request running, a new one is sent away with 503.
    """

    def __init__(self, *args: Any, limits: Limits, **options: Any):
        super().__init__(*args, **options)
        self.limits = limits
        self.since = self.loop.time()
        """When this connection last began to be without a request."""
        self.counted = True
        self._head: asyncio.TimerHandle | None = None
        self._fetch: asyncio.TimerHandle | None = None
        self._fetched: Any = None

    def busy(self) -> bool:
        """Whether a request is being received, computed or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(self.limits.head_seconds, self._late_head)
        counted = [c for c in self.connections if isinstance(c, Connection) and c.counted]
        if len(counted) <= self.limits.connections:
            return
        free = [c for c in counted if c is not self and not c.busy() and not c.transport.get_write_buffer_size()]
        if free:
            min(free, key=lambda c: c.since).drop()
        else:
            self.counted = False
            self._refuse(503, f"all {self.limits.connections} connections are in use: come back in 1 s", retry=True)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._fetch):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def drop(self) -> None:
        """End the connection now, whatever is still unsent, here or in the system's buffers."""
        self.counted = False
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # sent away already
            return
        super().data_received(data)
        if self.busy():
            if self._head is not None:
                self._head.cancel()
                self._head = None
        elif self._head is None and not self.transport.is_closing():
            # the first bytes of the next request, or the rest of one that was answered before it was read
            self._head = self.loop.call_later(self.limits.head_seconds, self._late_head)

    def _late_head(self) -> None:
        self._head = None
        if self.busy() or self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._refuse(408, f"the headers were not sent within {self.limits.head_seconds:g} s: send them at once")
        else:
            self.transport.close()
            self._watch_answer()

    # Fetching an answer.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        self._watch_answer()
        super().on_response_complete()

    def _watch_answer(self) -> None:
        """One limit for the whole of an answer: a byte now and then does not prolong it."""
        if self.transport.get_write_buffer_size() and (self._fetch is None or self._fetched is not self.cycle):
            if self._fetch is not None:
                self._fetch.cancel()
            self._fetched = self.cycle
            self._fetch = self.loop.call_later(self.limits.answer_seconds, self._late_answer)

    def _late_answer(self) -> None:
        self._fetch = None
        if self._fetched is self.cycle and self.transport.get_write_buffer_size():
            self.drop()

    # Requests that are none.

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for what is not HTTP."""
        large = len(self.conn.trailing_data[0]) > MAX_HEAD
        status, what = (431, f"headers of more than {MAX_HEAD:,} bytes") if large else (400, "no request of HTTP/1.1")
        self._refuse(status, f"{what}: docs/remote.md of deft has what this service takes")

    def _refuse(self, status: int, message: str, retry: bool = False) -> None:
        """Answer with an error where none has begun, and close."""
        if self.cycle is not None and not self.cycle.response_complete:  # the body of a running request is no HTTP
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": message}).encode()
            headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
            headers += [("connection", "close"), *([("retry-after", "1")] if retry else [])]
            head = "".join(f"{k}: {v}\r\n" for k, v in headers)
            reason = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}.get(status)
            self.transport.write(f"HTTP/1.1 {status} {reason or 'Service Unavailable'}\r\n{head}\r\n".encode() + body)
        self.transport.close()
        self._watch_answer()


class Server(uvicorn.Server):
    """uvicorn's server, which tells the application when it begins to stop."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]):
        super().__init__(config)
        self._stopping = stopping

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        for sock in sockets or []:
            sock.listen(BACKLOG)  # asyncio has one number for both

    async def shutdown(self, sockets: Any = None) -> None:
        self._stopping()
        await super().shutdown(sockets)
        if self.force_exit:  # a second Ctrl-C: uvicorn then leaves the application's end out, and tells of an error
            await self.lifespan.shutdown()
