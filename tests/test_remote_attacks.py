"""`deft serve` under load and among strangers, and its client before a service that lies: never a 500 for what a client
sent, never a dead service, never more than one line of an error of ours.
"""

from __future__ import annotations

import email.utils
import gzip
import io
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deft
from deft.denoiser import MeanDenoiser
from deft.errors import ContractError, DeftError, InputError
from deft.remote import client as remote
from deft.remote.client import HEADER, RemoteDenoiser, pack
from deft.remote.door import host_name
from deft.remote.server import make_app, running, serve

BOUNDED = settings(
    derandomize=True,
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
X = torch.ones(2, 4)
T = torch.tensor(0.5, dtype=torch.float64)
GOOD = pack(x_t=X, t=T)


class Normal(MeanDenoiser):
    """N(0, I), after a pause; the first call is the service's dry run."""

    def __init__(self, seconds=0.0, shape=(4,)):
        super().__init__(lambda x, a, s: a * x / (a**2 + s**2), deft.VPCosine(), shape)
        self.seconds, self.calls = seconds, 0

    def forward(self, x_t, t):
        self.calls += 1
        if self.calls > 1:
            time.sleep(self.seconds)
        return super().forward(x_t, t)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No token from outside, no proxies, short pauses."""
    for name in ("DEFT_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remote, "BACKOFF", (0.02, 0.1))
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.2)


@pytest.fixture(scope="module")
def service():
    with running(make_app(Normal(), max_batch=16), head_seconds=1.0) as url:
        yield url


def port_of(url):
    return int(url.rpartition(":")[2])


def connect(url, timeout=10.0):
    return socket.create_connection(("127.0.0.1", port_of(url)), timeout=timeout)


def everything(sock):
    """What comes until the connection ends."""
    data = b""
    with suppress(ConnectionError):
        while more := sock.recv(65536):
            data += more
    return data


def not_yet(answer):
    """Whether more of an answer is to come."""
    head, end, body = answer.partition(b"\r\n\r\n")
    size = next(
        (int(v) for k, _, v in (h.partition(b": ") for h in head.split(b"\r\n")) if k == b"content-length"), None
    )
    return not end or size is None or len(body) < size


def send(url, data):
    """(status, body) of the first answer to some bytes; (0, b"") if there was none. A service that waits for more is
    told soon that no more will come."""
    answer = b""
    with connect(url, 0.2) as sock, suppress(OSError):
        sock.sendall(data)
        try:
            answer = sock.recv(65536)
        except TimeoutError:
            sock.shutdown(socket.SHUT_WR)
        sock.settimeout(10)
        while more := not_yet(answer) and sock.recv(65536):
            answer += more
    if not answer:
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def request(body=GOOD, method="POST", path="/v1/mean", host="localhost", length=None, extra=""):
    size = len(body) if length is None else length
    line = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {size}\r\n{extra}\r\n"
    return line.encode() + body


def well(url):
    """The service answers, and rightly."""
    there = RemoteDenoiser(url, timeout=10)
    assert torch.equal(there(X, T).mean, Normal()(X, T).mean)
    assert httpx.get(url + "/health").json()["ready"]


# What is sent to the service.


def table(**entries):
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header


XT = {"dtype": "F32", "shape": [2, 4], "data_offsets": [8, 40]}
TT = {"dtype": "F64", "shape": [], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9, {400}),  # TLS
        (b"rubbish\r\n\r\n", {400}),
        (b"GET /health HTTP/9.9\r\nhost: localhost\r\n\r\n", {200, 400}),
        (b"GET /health HTTP/1.1\r\n\r\n", {400}),  # no Host
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n", {400}),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\n a: folded\r\nbad header\r\n\r\n", {400}),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 20_000, {431}),  # without an end
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", {431}),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 80 + b"\r\n", {431}),
        (b"GET /" + b"a" * 30_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", {404, 431}),
        (request(method="BREW"), {405}),
        (request(method="PUT"), {405}),
        (request(path="/v1/mean/"), {404}),
        (request(path="/v1/../v1/mean"), {404}),
        (request(path="*", method="OPTIONS"), {404}),
        (request(path="//evil.example/%2e%2e"), {404}),
        (request(extra="upgrade: websocket\r\n"), {200}),
        (request(extra="expect: 100-continue\r\n"), {100}),
        (request(extra="content-encoding: gzip\r\n"), {415}),
        (request(length=-1), {400}),
        (request(length="0x10"), {400}),
        (request(length="9" * 5000), {400, 413}),
        (request(length="9" * 18), {413}),
        (request(length=10**9), {413}),
        (request(extra="content-length: 7\r\n"), {400}),
        (request(extra="transfer-encoding: gzip\r\n"), {400}),
        (request(length=len(GOOD) + 9), {0}),  # the client left in the middle of it
        (request(length=len(GOOD) - 9), {400}),
    ],
)
def test_requests_that_are_none(service, data, statuses):
    status, body = send(service, data)
    assert status in statuses, (status, body)
    if status >= 400:
        error = json.loads(body)["error"]
        assert error and "\n" not in error and len(error) < 500
    well(service)


def chunked(*pieces, end=b"0\r\n\r\n"):
    head = b"POST /v1/mean HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + end


def test_bodies_in_pieces(service):
    assert send(service, chunked(GOOD[:50], GOOD[50:]))[0] == 200
    assert send(service, chunked(GOOD, end=b"zz\r\n"))[0] == 400
    assert send(service, chunked(GOOD, end=b"-5\r\n"))[0] == 400
    assert send(service, chunked(GOOD, end=b"f" * 30 + b"\r\n"))[0] in (400, 413)
    assert send(service, chunked(*[bytes(50_000)] * 10))[0] in (0, 413)
    well(service)


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<Q", 2**63) + GOOD[8:],
        struct.pack("<Q", 0) + GOOD[8:],
        table(x_t=XT, t=TT),
        table(x_t=XT | {"shape": [2**62, 4]}, t=TT) + bytes(40),
        table(x_t=XT | {"shape": [-2, -4]}, t=TT) + bytes(40),
        table(x_t=XT | {"shape": [2.0, 4]}, t=TT) + bytes(40),
        table(x_t=XT | {"shape": [0, 2**62]}, t=TT) + bytes(40),
        table(x_t=XT | {"data_offsets": [8, 2**63]}, t=TT) + bytes(40),
        table(x_t=XT | {"data_offsets": [40, 8]}, t=TT) + bytes(40),
        table(x_t=XT | {"data_offsets": [0, 32]}, t=TT) + bytes(40),
        table(x_t=XT | {"dtype": "F8_E8M0"}, t=TT) + bytes(40),
        table(x_t=XT | {"dtype": "NONE"}, t=TT) + bytes(40),
        table(x_t=XT | {"dtype": 3}, t=TT) + bytes(40),
        table(x_t=[], t=TT) + bytes(40),
        table(x_t=XT, t=TT, __metadata__={"a": "b" * 40_000}) + bytes(40),
        table(**{f"a{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(300)}),
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
    ],
)
def test_tables_that_lie(service, body):
    status, said = send(service, request(body))
    assert status in (400, 422) and json.loads(said)["error"]


def test_an_archive_of_numpy_is_no_body(service):
    stream = io.BytesIO()
    np.savez_compressed(stream, x_t=np.zeros((2, 4), np.float32), t=np.float64(0.5))
    for body in (stream.getvalue(), gzip.compress(GOOD), b"\x80\x04."):
        assert send(service, request(body))[0] == 400


REFUSED = {0, 200, 400, 404, 405, 408, 413, 415, 421, 422, 431}


@BOUNDED
@given(st.data())
def test_any_damage_to_a_request(service, data):
    whole = bytearray(request())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "drop", "insert"]))
        if kind == "flip":
            whole[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del whole[max(at, 1) :]
        elif kind == "drop":
            del whole[at : at + data.draw(st.integers(1, 9))]
        else:
            whole[at:at] = data.draw(st.binary(max_size=30))
        whole = whole or bytearray(b"\n")
    assert send(service, bytes(whole))[0] in REFUSED
    assert send(service, request())[0] == 200


@BOUNDED
@given(st.data())
def test_any_damage_to_a_body(service, data):
    body = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 3))
    assert send(service, request(bytes(body[: len(body) - cut])))[0] in {200, 400, 422}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=6), inside, max_size=4),
    max_leaves=8,
)


@BOUNDED
@given(st.sampled_from(["x_t", "t"]), st.sampled_from(["dtype", "shape", "data_offsets"]), json_values)
def test_any_value_in_a_table(service, name, field, value):
    entries = {"x_t": dict(XT), "t": dict(TT)}
    entries[name][field] = value
    assert send(service, request(table(**entries) + bytes(40)))[0] in {200, 400, 422}


@BOUNDED
@given(st.dictionaries(st.from_regex(r"[A-Za-z-]{1,12}", fullmatch=True), st.binary(max_size=40), max_size=12))
def test_any_headers(service, headers):
    extra = b"".join(k.encode() + b": " + v + b"\r\n" for k, v in headers.items())
    head = b"GET /v1/card HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" + extra + b"\r\n"
    assert send(service, head)[0] in REFUSED


def test_the_service_is_well_after_all_that(service):
    well(service)
    assert httpx.get(service + "/health").json()["waiting"] == 0


# By which name.


def test_a_page_elsewhere_cannot_ask(service):
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[::1", "a b", "10.0.0.1"):
        for path, method in (("/health", "GET"), ("/v1/card", "GET"), ("/v1/mean", "POST")):
            status, body = send(service, request(GOOD if method == "POST" else b"", method, path, host))
            assert status in (400, 421), (host, status)
            if status == 421:
                assert "localhost" in json.loads(body)["error"] and "--allow-host" in json.loads(body)["error"]
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", f"127.0.0.1:{port_of(service)}", "[::1]", "[::1]:99999"):
        assert send(service, request(b"", "GET", "/health", host))[0] == 200, host
    assert send(service, b"GET /health HTTP/1.0\r\n\r\n")[0] == 421
    assert host_name("http://a") == "" and host_name("A.Example.:8080") == "a.example"


@contextmanager
def serving(prior, **options):
    """`serve` in a thread (it then takes no signals), to the end of the process."""
    urls, ready = [], threading.Event()

    def run():
        serve(prior, port=0, ready=lambda url: (urls.append(url), ready.set()), **options)

    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(20)
    yield urls[0]


def test_names_that_are_allowed():
    with serving(Normal(), allow_hosts=["priors.example.org"]) as url:
        for host, status in (("priors.example.org", 200), ("PRIORS.example.org:443", 200), ("example.org", 421)):
            assert send(url, request(b"", "GET", "/health", host))[0] == status
    with serving(Normal(), host="0.0.0.0", token="t") as url:
        assert send(url, request(b"", "GET", "/health", "any.example"))[0] == 200
    with serving(Normal(), host="0.0.0.0", no_token=True, allow_hosts=("mine.example",)) as url:
        assert send(url, request(b"", "GET", "/health", "any.example"))[0] == 421
    with pytest.raises(InputError, match="a name to allow is one host"):
        serve(Normal(), allow_hosts=["http://priors.example.org/"])


def test_the_client_says_which_name_it_used(service, monkeypatch):
    # a name of this machine that is not among those the service answers to
    looked_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: looked_up("127.0.0.1", *a, **k))
    with pytest.raises(InputError, match=r"another name than the service's \(421 .*rebound\.example"):
        RemoteDenoiser(f"http://rebound.example:{port_of(service)}")


# Slow ones, and many.


def test_heads_that_do_not_come():
    with running(make_app(Normal()), head_seconds=0.4) as url:
        for beginning, status in ((b"", b""), (b"GET /health HT", b"HTTP/1.1 408")):
            with connect(url) as sock:
                began = time.monotonic()
                sock.sendall(beginning)
                answer = everything(sock)
                assert answer.startswith(status) and bool(answer) == bool(status)
                assert time.monotonic() - began < 4
        with connect(url) as sock:  # a byte now and then does not help, nor after a first request
            sock.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            began = time.monotonic()
            with pytest.raises(OSError):
                for byte in b"GET /health HTTP/1.1\r\nx: " + b"a" * 200:
                    sock.sendall(bytes([byte]))
                    time.sleep(0.05)
            assert time.monotonic() - began < 6
        well(url)


def test_answers_that_are_not_fetched():
    with running(make_app(Normal(shape=(3, 256, 256)), max_waiting=1), answer_seconds=0.5) as url:
        body = pack(x_t=torch.ones(16, 3, 256, 256), t=T)
        with connect(url) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(request(body))
            until = time.monotonic() + 10
            while httpx.get(url + "/health").json()["waiting"] and time.monotonic() < until:
                time.sleep(0.05)  # an answer that is not fetched counts as waiting
            assert httpx.get(url + "/health").json()["waiting"] == 0  # it was dropped
            assert len(everything(sock)) < len(body)
        there = RemoteDenoiser(url)
        assert there(torch.ones(16, 3, 256, 256), T).mean.shape == (16, 3, 256, 256)


@pytest.mark.parametrize("kind", ["nothing", "head", "body"])
def test_four_hundred_half_open_connections(kind):
    half = {
        "nothing": b"",
        "head": b"POST /v1/mean HTTP/1.1\r\nhost: localhost\r\n",
        "body": b"POST /v1/mean HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nab",
    }[kind]
    with running(make_app(Normal()), grace=0.2) as url:
        socks = []
        try:
            for _ in range(400):
                socks.append(connect(url))
                with suppress(OSError):
                    socks[-1].sendall(half)
            began = time.monotonic()
            for _ in range(3):
                assert RemoteDenoiser(url, wait=10)(X, T).mean.shape == X.shape
            assert time.monotonic() - began < 9
        finally:
            for sock in socks:
                sock.close()


def test_the_idlest_connection_makes_room():
    with (
        running(make_app(Normal(1.0)), connections=3) as url,
        connect(url) as first,
        connect(url) as second,
        connect(url) as third,
    ):
        first.sendall(request())  # this one has a request running, and stays
        time.sleep(0.3)
        with connect(url) as fourth:
            fourth.sendall(request(b"", "GET", "/health"))
            assert everything(fourth).startswith(b"HTTP/1.1 200")
        assert everything(second) == b""
        third.sendall(request(b"", "GET", "/health"))
        assert everything(third).startswith(b"HTTP/1.1 200")
        assert everything(first).startswith(b"HTTP/1.1 200")


def test_all_connections_in_use():
    with running(make_app(Normal(1.0)), connections=2) as url, connect(url) as first, connect(url) as second:
        for sock in (first, second):
            sock.sendall(request())
        time.sleep(0.3)
        with connect(url) as third:
            answer = everything(third)
            assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in answer
        assert all(everything(sock).startswith(b"HTTP/1.1 200") for sock in (first, second))


COMMAND = """
import sys, time, resource
if {files}:
    resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
import torch, deft
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from deft.cli import serve as command
from test_remote_attacks import Normal
command.common.find_prior = lambda *a: Normal({seconds})
command.serve()
"""


@contextmanager
def command(*more, seconds=0.0, files=0, port=0):
    """`deft serve` as a process."""
    text = COMMAND.format(tests=os.path.dirname(__file__), seconds=seconds, files=files)
    process = subprocess.Popen(
        [sys.executable, "-c", text, "normal", "--port", str(port), "--json", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        process.url = json.loads(line)["url"]
        yield process
    finally:
        process.kill()
        process.communicate()


def test_few_files():
    with command(files=256) as process:
        socks = [connect(process.url) for _ in range(400)]
        began = time.monotonic()
        well(process.url)
        assert time.monotonic() - began < 5
        for sock in socks:
            sock.close()
        well(process.url)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0 and "Too many open files" not in err and "Traceback" not in err


# The end.


@contextmanager
def asking(url):
    """A request under way, and what became of it: a list of (status, headers)."""
    got = []

    def ask():
        try:
            answer = httpx.post(url + "/v1/mean", content=GOOD, timeout=60)
            got.append((answer.status_code, answer.headers, answer.content))
        except httpx.TransportError as error:
            got.append((0, {}, repr(error)))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.6)
    yield got
    thread.join(30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_runs_is_finished(number):
    with command(seconds=1.5) as process:
        with asking(process.url) as first, asking(process.url) as second:  # one runs, one waits
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
        assert (first[0][0], second[0][0]) == (200, 200)
        assert process.returncode == 0 and err.strip().endswith("stopped") and "Traceback" not in err


def test_what_is_not_finished_is_told_to_come_back():
    with command("--grace", "0.5", seconds=30) as process:
        with asking(process.url) as got, asking(process.url) as waits:
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            time.sleep(0.3)
            with pytest.raises(httpx.ConnectError):  # no more are taken
                httpx.get(process.url + "/health")
            _, err = process.communicate(timeout=30)
            assert time.monotonic() - began < 8
        for (status, headers, body), *_ in (got, waits):
            assert status == 503 and float(headers["retry-after"]) >= 1 and "stopping" in json.loads(body)["error"]
            assert headers[HEADER]
        assert process.returncode == 0 and "a forward pass was not finished" in err and "Traceback" not in err


def test_a_second_signal_ends_at_once():
    with command("--grace", "60", seconds=60) as process:
        with asking(process.url) as got:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
        assert process.returncode == 0 and "Traceback" not in err and got[0][0] in (0, 503)


def test_the_client_goes_on_with_the_next_service():
    with command("--grace", "0.3", seconds=30) as process:
        there, got = RemoteDenoiser(process.url, wait=60), []
        thread = threading.Thread(target=lambda: got.append(there(X, T).mean))
        thread.start()
        time.sleep(0.6)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        with command(port=port_of(process.url)):
            thread.join(30)
            assert torch.equal(got[0], Normal()(X, T).mean)


def test_new_requests_while_it_stops():
    app = make_app(Normal())
    with running(app) as url, httpx.Client() as client:
        assert client.get(url + "/health").status_code == 200
        app.state.stop()
        answer = client.post(url + "/v1/mean", content=GOOD)
        assert answer.status_code == 503 and answer.headers["retry-after"] and answer.headers[HEADER]
        assert client.get(url + "/health").status_code == 503


def test_a_server_that_cancels_answers_503():
    with running(make_app(Normal(3.0)), grace=0.2) as url:
        asked = asking(url)
        got = asked.__enter__()
    asked.__exit__(None, None, None)
    assert got[0][0] == 503


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_batch": 1.5}, "max_batch"),
        ({"max_batch": True}, "max_batch"),
        ({"max_batch": 2**40}, "max_batch"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": "many"}, "max_bytes"),
        ({"max_waiting": float("inf")}, "max_waiting"),
        ({"merge_ms": float("inf")}, "merge_ms"),
        ({"merge_ms": float("nan")}, "merge_ms"),
        ({"merge_ms": "1"}, "merge_ms"),
        ({"body_seconds": 0}, "body_seconds"),
        ({"body_seconds": float("nan")}, "body_seconds"),
        ({"max_connections": 0}, "max_connections"),
        ({"head_seconds": float("inf")}, "head_seconds"),
        ({"grace": -1}, "grace"),
        ({"grace": None}, "grace"),
        ({"port": 70_000}, "port"),
        ({"port": "80"}, "port"),
        ({"host": ""}, "host"),
        ({"host": None}, "host"),
    ],
)
def test_settings_of_a_service(options, match):
    with pytest.raises(InputError, match=match):
        serve(Normal(), **({"port": 0} | options))


@pytest.mark.parametrize("name", ["timeout", "wait", "retries", "batch"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "1", True, [], 2**70])
def test_settings_of_a_client(name, value):
    with pytest.raises(InputError, match=name):
        RemoteDenoiser("http://127.0.0.1:1", **{name: value})


# A soak.


@pytest.mark.slow
def test_a_soak_leaves_nothing_behind():
    with command("--max-waiting", "4") as process:
        well(process.url)

        def held():
            with open(f"/proc/{process.pid}/status") as f:
                threads = int(next(line for line in f if line.startswith("Threads")).split()[1])
            return threads, len(os.listdir(f"/proc/{process.pid}/fd"))

        until, done = time.monotonic() + 2, []

        def work(i):
            there = RemoteDenoiser(process.url, wait=30)
            while time.monotonic() < until:
                if i % 3 == 0:
                    send(process.url, (b"rubbish\r\n\r\n", request(b"x"), request(host="evil"))[len(done) % 3])
                elif i % 3 == 1:
                    with connect(process.url) as sock:
                        sock.sendall(request()[:-20])
                else:
                    there(X, T)
                done.append(i)
            there._client[0].close()

        def soak():
            threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            time.sleep(0.5)
            return held()

        first = soak()
        until = time.monotonic() + 2
        second = soak()
        assert second[0] <= first[0] + 1 and second[1] <= first[1] + 1, (first, second)
        assert len(done) > 50 and httpx.get(process.url + "/health").json()["waiting"] == 0
        well(process.url)


# A service that lies.


CARD = {
    "format": 1,
    "event_shape": [4],
    "schedule": {"name": "vp-linear", "beta_0": 0.1, "beta_1": 20.0},
    "output": "mean",
    "dtype": "float32",
    "range": [-1, 1],
    "parameters": None,
    "fingerprint": "fp",
    "limits": {"max_batch": 64, "max_bytes": None},
}


def answer(body, status=200, *headers, length=None):
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} so", f"{HEADER}: fp", f"content-length: {size}", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Liar:
    """A service whose answers are bytes, or pieces of them with pauses. `card` and `mean` are the next ones; `heard`
    holds what was asked."""

    def __init__(self):
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"
        self.card, self.mean, self.heard, self.sent = answer(json.dumps(CARD).encode()), b"", [], 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.sock.accept()[0],), daemon=True).start()

    def _serve(self, sock):
        with sock, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                data += sock.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            size = next(
                (int(v) for k, _, v in (h.partition(b":") for h in head.split(b"\r\n")) if k == b"Content-Length"), 0
            )
            while len(body) < size:
                body += sock.recv(65536)
            self.heard.append(head + b"\r\n\r\n" + body)
            made = self.card if b"/v1/card" in head.split(b"\r\n")[0] else self.mean
            for piece in [made] if isinstance(made, bytes) else made():
                sock.sendall(piece)
                self.sent += len(piece)


@pytest.fixture
def liar():
    made = Liar()
    yield made
    made.sock.close()


@pytest.fixture(scope="module")
def long_liar():
    made = Liar()
    yield made
    made.sock.close()


def ask(liar, **options):
    return RemoteDenoiser(liar.url, **({"timeout": 2, "retries": 0, "wait": 0.2} | options))


def fails(call, kind=DeftError, match=".", within=8.0):
    began = time.monotonic()
    with pytest.raises(kind, match=match) as caught:
        call()
    assert time.monotonic() - began < within
    text = str(caught.value)
    assert "\n" not in text and "\x1b" not in text and len(text) < 900
    return text


def zipped(levels, mib):
    data = gzip.compress(bytes(mib * 2**20))
    for _ in range(levels - 1):
        data = gzip.compress(data)
    return data


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "deflate", "br", "zstd", "GZIP", "nonsense"])
def test_nothing_is_unpacked(liar, encoding):
    bomb = zipped(encoding.count(",") + 1, 64)
    there = ask(liar)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    liar.mean = answer(bomb, 200, f"content-encoding: {encoding}")
    fails(lambda: there(X, T), InputError, "asked for plain bytes")
    liar.mean = answer(bomb, 400, f"content-encoding: {encoding}")
    fails(lambda: there(X, T), ContractError, "refused the request .400.")
    liar.card = answer(bomb, 200, f"content-encoding: {encoding}")
    fails(lambda: ask(liar), InputError, "asked for plain bytes")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KiB
    assert all(b"accept-encoding: identity" in head.lower() for head in liar.heard)


def drip(data, every=0.05):
    def pieces():
        for i in range(len(data)):
            yield data[i : i + 1]
            time.sleep(every)

    return pieces


def test_a_byte_now_and_then_is_not_waited_for(liar):
    there = ask(liar, timeout=0.5)
    for mean in (drip(answer(pack(mean=X))), drip(b"HTTP/1.1 200 so\r\nx-y: " + b"a" * 500)):
        liar.mean = mean
        fails(lambda: there(X, T), InputError, r"in full within 1 s, 1 times over", within=4)
    liar.card = drip(answer(json.dumps(CARD).encode()))
    fails(lambda: ask(liar, timeout=0.5), InputError, "in full within 1 s", within=4)
    # from its beginning to its end an answer may take longer than `timeout`
    liar.card, liar.mean = answer(json.dumps(CARD).encode()), drip(answer(pack(mean=X)), 0.004)
    assert torch.equal(ask(liar, timeout=1.2)(X, T).mean, X)


def test_a_service_that_does_not_take_the_request():
    with socket.create_server(("127.0.0.1", 0), backlog=8) as deaf:
        card = answer(
            json.dumps(CARD | {"event_shape": [2**20], "limits": {"max_batch": 64, "max_bytes": None}}).encode()
        )

        def serve_it():
            with suppress(OSError):
                first, _ = deaf.accept()
                first.recv(65536)
                first.sendall(card)
                first.close()
                second, _ = deaf.accept()
                while second.recv(50):  # slowly: each write goes on, none ends in time
                    time.sleep(0.02)

        threading.Thread(target=serve_it, daemon=True).start()
        there = RemoteDenoiser(f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout=0.5, retries=0, wait=0.2)
        fails(lambda: there(torch.ones(16, 2**20), T), InputError, "did not answer", within=6)


def endless(first, piece):
    def pieces():
        yield first
        while True:
            yield piece

    return pieces


@pytest.mark.parametrize(
    "made",
    [
        endless(b"HTTP/1.1 200 so\r\n", b"a: " + b"b" * 1000 + b"\r\n"),
        endless(b"HTTP/1.1 200 so\r\na: ", b"b" * 1000),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
        endless(f"HTTP/1.1 200 so\r\n{HEADER}: fp\r\n\r\n".encode(), bytes(60_000)),
        endless(f"HTTP/1.1 500 so\r\n{HEADER}: fp\r\n\r\n".encode(), bytes(60_000)),
        endless(f"HTTP/1.1 200 so\r\n{HEADER}: fp\r\ntransfer-encoding: chunked\r\n\r\n".encode(), b"5\r\naaaaa\r\n"),
        endless(f"HTTP/1.1 200 so\r\n{HEADER}: fp\r\ntransfer-encoding: chunked\r\n\r\n".encode(), b"1;" + b"x" * 999),
        endless(b"", b"\x00" * 1000),
    ],
)
def test_endless_answers(liar, made):
    there = ask(liar)
    liar.mean = made
    fails(lambda: there(X, T))
    assert liar.sent < 16 * 2**20  # what fits into the buffers of two sockets, and no more
    liar.card = made
    fails(lambda: ask(liar))


@pytest.mark.parametrize(
    ("made", "kind", "match"),
    [
        (answer(pack(mean=X), length=10**6), DeftError, "stayed away|more than"),
        (answer(pack(mean=X)[:-5]), ContractError, "no safetensors"),
        (answer(pack(mean=X), 204), DeftError, "."),
        (answer(pack(mean=X), 206), ContractError, "refused"),
        (answer(b"", 304), InputError, "points to"),
        (b"HTTP/1.1 999 what\r\n\r\n", DeftError, "."),
        (b"HTTP/1.1 abc\r\n\r\n", InputError, "not how a `deft serve` answers"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", InputError, "not how a `deft serve` answers"),
        (b"HTTP/1.1 200 so\r\ncontent-length: -5\r\n\r\n", InputError, "not how a `deft serve` answers"),
        (b"HTTP/1.1 200 so\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", InputError, "not how"),
        (b"", InputError, "stayed away"),
        (answer(json.dumps({"error": "\x1b[2Jno\nno"}).encode(), 422), ContractError, r"\[2Jno no"),
        (answer(b'{"error": ' + b"[" * 1900, 422), ContractError, "refused"),
        (answer(b"[" * 10**5, 400), ContractError, "refused"),
        (answer(b"", 401), InputError, "wants a token"),
    ],
)
def test_answers_that_are_none(liar, made, kind, match):
    there = ask(liar)
    liar.mean = made
    fails(lambda: there(X, T), kind, match)


def test_a_token_is_for_one_address(liar):
    other = Liar()
    there = ask(liar, token="open-sesame")
    for status in (301, 302, 303, 307, 308):
        liar.mean = answer(b"", status, f"location: {other.url}/v1/mean")
        fails(lambda: there(X, T), InputError, "points to " + other.url)
    liar.card = answer(b"", 302, f"location: {other.url}/v1/card")
    fails(lambda: ask(liar, token="open-sesame"), InputError, "points to")
    assert other.heard == [] and all(b"Bearer open-sesame" in h for h in liar.heard)
    other.sock.close()


def test_nothing_a_service_says_is_kept(liar):
    there = ask(liar)
    liar.mean = answer(pack(mean=X), 200, "set-cookie: a=b; Path=/", f"set-cookie: c={'d' * 1000}")
    for _ in range(3):
        there(X, T)
    assert not any(b"ookie" in h for h in liar.heard) and len(there._client[0].cookies) == 0


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("3", 3, 3),
        ("0.5", 0.5, 0.5),
        ("-5", 0, 0),
        ("nan", 0, 0),
        ("inf", 0, 0),
        ("-inf", 0, 0),
        ("9" * 400, 0, 0),
        ("1e9", 1e9, 1e9),
        ("soon", 0, 0),
        ("", 0, 0),
        (None, 0, 0),
        pytest.param(email.utils.formatdate(time.time() + 3600, usegmt=True), 600, 3601, id="in an hour"),
        (email.utils.formatdate(0, usegmt=True), 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9, 1e12),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0, 0),
        ("Mon, 99 Foo 20", 0, 0),
    ],
)
def test_when_to_come_back(value, low, high):
    assert low <= remote._retry_after(value) <= high


@pytest.mark.parametrize("value", ["1e9", "Fri, 31 Dec 9999 23:59:59 GMT", "1e300"])
def test_who_asks_for_too_much_patience_is_left(liar, value):
    there = ask(liar, wait=1)
    liar.mean = answer(b"", 503, f"retry-after: {value}")
    text = fails(lambda: there(X, T), InputError, "asks to come back in", within=3)
    assert len(text) < 300


@pytest.mark.parametrize("value", ["-1e9", "nan", "0", "soon"])
def test_no_time_is_no_reason_to_hurry(liar, value):
    there = ask(liar, wait=0.5)
    before = len(liar.heard)
    liar.mean = answer(b"", 503, f"retry-after: {value}")
    fails(lambda: there(X, T), InputError, "stayed away for 0.5 s", within=3)
    assert 2 < len(liar.heard) - before < 60  # pauses that grow


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", True),
        ("format", "1"),
        ("format", [1]),
        ("event_shape", [2**20, 2**20]),
        ("event_shape", [0]),
        ("event_shape", [-4]),
        ("event_shape", [4.0]),
        ("event_shape", [True]),
        ("event_shape", [1] * 9),
        ("event_shape", 4),
        ("event_shape", "4"),
        ("event_shape", {"0": 4}),
        ("schedule", None),
        ("schedule", []),
        ("schedule", "vp-linear"),
        ("schedule", {}),
        ("schedule", {"name": ["vp-linear"]}),
        ("schedule", {"name": "vp-linear", "beta_0": float("nan")}),
        ("schedule", {"name": "vp-linear", "beta_1": float("inf")}),
        ("schedule", {"name": "vp-linear", "beta_0": "x"}),
        ("schedule", {"name": "vp-linear", "more": 1}),
        ("schedule", {"name": "vp-cosine", "bound": 1e300}),
        ("schedule", {"name": "vp-table", "betas": [[0.1]]}),
        ("schedule", {"name": "vp-table", "betas": ["a", "b"]}),
        ("schedule", {"name": "edm", "sigma_min": 1e-300, "sigma_max": float("inf")}),
        ("schedule", {"name": "rescaled", "inner": 3, "scale": 1}),
        ("schedule", {"name": "rescaled", "inner": {"name": "vp-linear"}, "scale": float("inf")}),
        ("output", ["mean"]),
        ("dtype", {}),
        ("range", [float("nan"), 1]),
        ("range", [1, -1]),
        ("range", ["a", "b"]),
        ("range", 5),
        ("range", [0, float("inf")]),
        ("parameters", -1),
        ("parameters", 1.5),
        ("parameters", True),
        ("parameters", 2**60),
        ("parameters", "many"),
        ("fingerprint", ""),
        ("fingerprint", 3),
        ("fingerprint", "f" * 500),
        ("fingerprint", "é"),
        ("fingerprint", "a\nb"),
        ("limits", None),
        ("limits", [1]),
        ("limits", {"max_batch": 0}),
        ("limits", {"max_batch": -3}),
        ("limits", {"max_batch": 1e9}),
        ("limits", {"max_batch": 64, "max_bytes": -1}),
        ("limits", {"max_batch": 64, "max_bytes": "x"}),
        ("convention", [1]),
        ("convention", "v"),
    ],
)
def test_cards_that_lie(long_liar, field, value):
    long_liar.card = answer(json.dumps(CARD | {field: value}).encode())
    fails(lambda: ask(long_liar))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"card"',
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        json.dumps(CARD).encode()[:-1],
        json.dumps(CARD | {"convention": {"a": "b"}}).encode().replace(b'"b"', b"[" * 70 + b"]" * 70),
        b'{"format": 1' + b"0" * 5000 + b"}",
        b" " * (1 << 22) + b"{}",
    ],
)
def test_cards_that_are_no_card(long_liar, body):
    long_liar.card = answer(body)
    fails(lambda: ask(long_liar))


@BOUNDED
@given(st.sampled_from(sorted(CARD)), json_values)
def test_any_value_in_a_card(long_liar, field, value):
    long_liar.card = answer(json.dumps(CARD | {field: value}).encode())
    try:
        there = ask(long_liar)
    except DeftError as error:
        assert "\n" not in str(error) and str(error).isprintable()
    else:
        t = torch.linspace(there.schedule.t_min, there.schedule.t_max, 3, dtype=torch.float64)
        assert not there.schedule.log_snr(t).isnan().any()
        assert field == "event_shape" or there.event_shape == (4,)


@BOUNDED
@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda b: b"HTTP/1.1 200 so\r\n" + b))
def test_any_bytes_for_a_card(long_liar, data):
    long_liar.card = data
    with pytest.raises(DeftError) as caught:
        RemoteDenoiser(long_liar.url, timeout=2, retries=0, wait=0.01)
    assert str(caught.value).isprintable()


@BOUNDED
@given(st.data())
def test_any_damage_to_an_answer(long_liar, data):
    long_liar.card = answer(json.dumps(CARD).encode())
    there = ask(long_liar, wait=0.01)
    whole = bytearray(answer(pack(mean=X)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    long_liar.mean = bytes(whole[: len(whole) - data.draw(st.integers(0, 2))])
    try:
        mean = there(X, T).mean
    except DeftError as error:
        assert str(error).isprintable()
    else:
        assert mean.shape == X.shape and mean.dtype == X.dtype and mean.isfinite().all()
