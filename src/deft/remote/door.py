"""The names by which a service may be asked, and how many headers a request may have."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from deft.remote.client import plain

MAX_HEAD = 16 * 2**10
"""Bytes of a request's first line and headers."""
MAX_HEADERS = 64
"""Headers of a request."""

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service on that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(value: str) -> str:
    """The name in a Host header, without port and in lower case; '' if it is none.

    >>> host_name("LocalHost:8765"), host_name("[::1]:80"), host_name("a b"), host_name("a:b")
    ('localhost', '::1', '', '')
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::[0-9]*)?", value, re.ASCII)
    return (found[1] or found[2]).lower().removesuffix(".") if found else ""


class Door:
    """In front of an application: requests with too many headers, or for a name that is not ours, get no further.

    hosts: names that are answered beside the loopback addresses; None: every name. A page in a browser can have its own
        name point to 127.0.0.1 (DNS rebinding); what it then asks for bears that name.
    """

    def __init__(self, app: Application, hosts: Iterable[str] | None = None):
        self.app = app
        self.hosts = None if hosts is None else frozenset(h.lower().strip("[]").removesuffix(".") for h in hosts)

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (why := self._unwanted(scope["headers"])):
            body = json.dumps({"error": why[1]}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send(
                {"type": "http.response.start", "status": why[0], "headers": [*headers, (b"connection", b"close")]}
            )
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, send)

    def _unwanted(self, headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        if len(headers) > MAX_HEADERS or sum(len(k) + len(v) for k, v in headers) > MAX_HEAD:
            return 431, f"got {len(headers)} headers, at most {MAX_HEADERS} and {MAX_HEAD:,} bytes of them are taken"
        if self.hosts is None:
            return None
        given = next((v for k, v in headers if k == b"host"), b"").decode("latin-1")
        name = host_name(given)
        if name in self.hosts or is_loopback(name):
            return None
        known = ", ".join(
            sorted({"localhost", "127.0.0.1", "[::1]", *(f"[{h}]" if ":" in h else h for h in self.hosts)})
        )
        return 421, (
            f"asked for as {plain(given, 80)!r}, this service answers to {known}: use one of these, or start it with"
            " --allow-host NAME"
        )
