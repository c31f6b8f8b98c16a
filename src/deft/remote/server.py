"""A prior as a service: its denoised means over HTTP, without its weights.

    serve(load_prior("fashion"))           until Ctrl-C
    make_app(prior)                        the ASGI application, for a server of your own
    with running(make_app(prior)) as url:  in a thread of this process, for tests and notebooks

Three addresses: GET /health, GET /v1/card, POST /v1/mean. docs/remote.md has the wire format. The prior runs in one
thread, one forward pass at a time and one request to a pass, so that an answer does not depend on who else is asking.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import math
import queue
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, freeze
from deft.errors import ContractError, DeftError, InputError
from deft.kinds.domain import domain_of
from deft.remote.client import (
    FORMAT,
    HEADER,
    MOST_NAME,
    SLACK,
    TOKEN,
    Token,
    bad_rows,
    described,
    pack,
    plain,
    real,
    unpack,
    whole,
)
from deft.remote.door import MAX_HEAD, Door, host_name, is_loopback
from deft.runtime.compiled import compiled_calls
from deft.schedule import make_schedule

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger("deft.serve")

PATIENCE = 2.0
"""A request may be received for so many seconds before it makes room for others, when there are too many."""
STOPPING = "the service is stopping: come back later"
PIECE = 1 << 20
"""Bytes of an answer handed over at once: the rest waits here, not in a buffer, until the client has taken them."""


class Refusal(Exception):
    """A request that gets a status and one line instead of an answer."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {k.replace("_", "-"): v for k, v in headers.items()}


class Job(NamedTuple):
    x_t: Tensor
    t: Tensor
    future: Future[Tensor]


class Runner:
    """One thread that runs the prior, in the order of arrival.

    merge_ms: above 0, requests that arrive within so many milliseconds share a forward pass of at most `max_batch`
        rows.
    """

    def __init__(self, prior: Denoiser, max_batch: int, merge_ms: float = 0.0):
        self.prior, self.max_batch, self.merge_ms = prior, max_batch, merge_ms
        self.seconds = 0.0  # of the last forward pass
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held: list[Job | None] = []  # taken from the queue, but too many for the pass it was taken for
        self._thread = threading.Thread(target=self._loop, name="deft-prior", daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, x_t: Tensor, t: Tensor) -> Future[Tensor]:
        job = Job(x_t, t, Future())
        self._jobs.put(job)
        return job.future

    def close(self, seconds: float = 10.0) -> bool:
        """Finish what was asked for, for so long; whether it was."""
        self._jobs.put(None)
        self._thread.join(seconds)
        return not self.alive()

    def _loop(self) -> None:
        while (job := self._held.pop() if self._held else self._jobs.get()) is not None:
            jobs = [j for j in self._gather(job) if j.future.set_running_or_notify_cancel()]
            if len(jobs) > 1 and self._run(jobs):
                continue
            for one in jobs:  # alone, or one of several whose pass failed: each gets its own answer
                self._run([one], last=True)

    def _gather(self, first: Job) -> list[Job]:
        jobs, rows, until = [first], len(first.x_t), time.monotonic() + self.merge_ms / 1000
        while self.merge_ms > 0 and rows < self.max_batch:
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None or rows + len(job.x_t) > self.max_batch:
                self._held.append(job)
                break
            jobs.append(job)
            rows += len(job.x_t)
        return jobs

    def _run(self, jobs: list[Job], last: bool = False) -> bool:
        try:
            started = time.monotonic()
            if len(jobs) == 1:
                means = (self.mean(jobs[0].x_t, jobs[0].t),)
            else:
                t = torch.cat([j.t.expand(len(j.x_t)) for j in jobs])
                means = self.mean(torch.cat([j.x_t for j in jobs]), t).split([len(j.x_t) for j in jobs])
            self.seconds = time.monotonic() - started
        except BaseException as error:  # also a model that calls sys.exit(): the thread must live on
            if last:
                jobs[0].future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            return False
        for job, mean in zip(jobs, means, strict=True):
            job.future.set_result(mean)
        return True

    @torch.no_grad()
    @compiled_calls()
    def mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t] in float32 on the CPU."""
        like = self.prior.state_like()
        # a lone t stays on the CPU and one for each row goes to the model, as `sample` and `fit` have it
        mean = self.prior(x_t.to(like), t if t.ndim == 0 else t.to(like.device)).mean
        if mean.shape != x_t.shape:
            raise ContractError(f"the prior's mean has shape {tuple(mean.shape)}, expected {tuple(x_t.shape)}")
        return mean.to("cpu", torch.float32)


def make_app(
    prior: Denoiser,
    *,
    token: str | None = None,
    name: str | None = None,
    max_batch: int = 256,
    max_bytes: int | None = None,
    max_waiting: int = 32,
    merge_ms: float = 0.0,
    body_seconds: float = 30.0,
) -> Starlette:
    """The service as an ASGI application. The prior is frozen, and run once on a random state.

    Args:
        token: what clients must send as `Authorization: Bearer`; None asks for nothing.
        name: for the card; default: the prior's own.
        max_batch: most rows in a request, and in a forward pass.
        max_bytes: largest body of a request; default: what max_batch rows need.
        max_waiting: requests for a mean that may be received, waiting or running at once; more are sent away with 503.
        merge_ms: above 0, requests that arrive within so many milliseconds of each other share a forward pass: more of
            them in a second, but a row's last bits then depend on what it was computed with. 0 keeps answers exact.
        body_seconds: longest a client may take to send its request. While there are too many requests, one that has
            been on its way for more than 2 s makes room for another.

    Raises:
        InputError: starlette is missing, or a setting is of the wrong type or out of range.
        ContractError: the prior does not run on its own event shape, or its mean is not finite.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise InputError("serving a prior needs starlette and uvicorn: pip install 'deft-diffusion[serve]'") from error
    whole("a service", "max_batch", max_batch, 1, 2**31 - 1)
    whole("a service", "max_waiting", max_waiting, 1, 100_000)
    if max_bytes is not None:
        whole("a service", "max_bytes", max_bytes, 1, 2**48)
    real("a service", "merge_ms", merge_ms, 0.0, 60_000.0)
    real("a service", "body_seconds", body_seconds, 0.001, 86_400.0)
    secret = None if token is None else Token(token).value
    freeze(prior)
    fingerprint, shape, schedule = prior.fingerprint(), tuple(prior.event_shape), _stated_schedule(prior)
    limit = max_batch * (4 * math.prod(shape) + 8) + SLACK if max_bytes is None else max_bytes
    card = {
        "format": FORMAT,
        "name": plain(name or prior.card.get("name") or type(prior).__name__, MOST_NAME),
        "event_shape": list(shape),
        "schedule": schedule,
        "output": "mean",
        "dtype": "float32",
        **_of_samples(prior),
        "parameters": prior.parameter_count() or None,
        "fingerprint": fingerprint,
        "stands_for": list(prior.card.get("stands_for", ())),
        "convention": prior.describe(),
        "limits": {"max_batch": max_batch, "max_bytes": limit},
        "merged": merge_ms > 0,
    }
    runner = Runner(prior, max_batch, merge_ms)
    try:
        _dry_run(runner, prior)
    except DeftError:
        runner.close()
        raise
    waiting, stopping = 0, False
    arriving: dict[asyncio.Task[bytes], float] = {}  # bodies on their way, and since when

    def stop() -> None:
        nonlocal stopping
        stopping = True

    def answer(status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
        return JSONResponse(value, status, headers)

    async def health(request: Request) -> Response:
        ready = runner.alive() and not stopping
        return answer(
            200 if ready else 503, {"status": "ok" if ready else "stopping", "ready": ready, "waiting": waiting}
        )

    async def get_card(request: Request) -> Response:
        return answer(200, card)

    async def mean(request: Request) -> Response:
        nonlocal waiting
        if stopping or not runner.alive():
            raise Refusal(503, STOPPING, retry_after="1", connection="close")
        if waiting >= max_waiting and not make_room():
            soon = min(30, max(1, math.ceil(waiting * runner.seconds)))
            raise Refusal(503, f"{waiting} requests are waiting already: come back in {soon} s", retry_after=str(soon))
        waiting += 1
        try:
            body = await receive(request)
            x_t, t = await run_in_threadpool(_read, body, shape, prior, max_batch)
            del body
            future = asyncio.wrap_future(runner.submit(x_t, t))
            while not future.done():
                await asyncio.wait({future}, timeout=0.25)
                if not future.done() and await request.is_disconnected():
                    future.cancel()  # nobody is there to read it: spare the forward pass if it has not begun
                    raise Refusal(499, "the client went away")
            packed = await run_in_threadpool(_write, future.result())
        except BaseException:
            leave()
            raise
        return Pieces(packed, media_type="application/octet-stream")

    def leave() -> None:
        nonlocal waiting
        waiting -= 1

    class Pieces(Response):
        """An answer handed over piece by piece, as the client takes it; until then it counts as waiting."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                for low in range(0, len(self.body), PIECE):
                    piece, more = bytes(self.body[low : low + PIECE]), low + PIECE < len(self.body)
                    await send({"type": "http.response.body", "body": piece, "more_body": more})
            except (
                asyncio.CancelledError
            ):  # the service stops; the client sees that the answer has no end, and asks again
                log.warning("an answer was not fetched before the service stopped")
            finally:
                leave()

    def make_room() -> bool:
        """End the request that has been on its way for longest, if that is long; whether one was ended."""
        task, since = next(iter(arriving.items()), (None, 0.0))  # in the order in which they came
        if task is None or time.monotonic() - since < PATIENCE:
            return False
        del arriving[task]
        return task.cancel()

    async def receive(request: Request) -> bytes:
        """The body, unless it takes too long."""
        task = asyncio.ensure_future(read(request))
        arriving[task] = time.monotonic()
        try:
            await asyncio.wait({task}, timeout=body_seconds)
        finally:
            ended = arriving.pop(task, None) is None
            late = task.cancel()
        if late:
            what = f"the request was not sent within {body_seconds:g} s: send fewer rows at once"
            raise Refusal(408, what, connection="close")
        if ended and task.cancelled():
            what = "the request was slow to come and others are waiting: come back in 1 s"
            raise Refusal(503, what, retry_after="1", connection="close")
        try:
            return task.result()
        except ClientDisconnect as error:
            raise Refusal(499, "the client went away") from error

    async def read(request: Request) -> bytes:
        """The body, no further than `limit`."""
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise Refusal(
                415, "bodies are taken as they are: send x_t and t without Content-Encoding", connection="close"
            )
        declared = request.headers.get("content-length", "0")
        too_large = Refusal(
            413, f"the body is larger than {limit:,} bytes: send at most {max_batch} rows at once", connection="close"
        )
        if not (declared.isascii() and declared.isdigit() and len(declared) < 20) or int(declared) > limit:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
        return bytes(body)

    def guarded(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Asks for the token, turns every failure into JSON, and says which prior answers."""

        async def guard(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if secret is not None and not hmac.compare_digest(given.encode(), f"Bearer {secret}".encode()):
                what = "a wrong token was" if given else "none was"
                message = (
                    f"this service wants a token, {what} given: send `Authorization: Bearer TOKEN` (the client reads"
                    f" {TOKEN})"
                )
                return answer(401, {"error": message}, {"www-authenticate": "Bearer"})
            try:
                response = await endpoint(request)
            except Refusal as refusal:
                response = answer(refusal.status, {"error": refusal.message}, refusal.headers)
            except asyncio.CancelledError:  # a server that stops ends what takes too long: come back to the next one
                response = answer(503, {"error": STOPPING}, {"retry-after": "1", "connection": "close"})
            except Exception as error:  # what a model says about itself stays in the log: its owner may want it hidden
                log.exception("a request failed")
                response = answer(
                    500,
                    {"error": f"the prior failed on this batch ({type(error).__name__}); the service's log says more"},
                )
            response.headers[HEADER] = fingerprint
            return response

        return guard

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = "GET /health, GET /v1/card, POST /v1/mean"
        said = {404: f"no such path: {where}", 405: f"not a method of this path: {where}"}
        return answer(
            error.status_code, {"error": said.get(error.status_code, plain(error.detail))}, dict(error.headers or {})
        )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(runner.close, 0.5)  # whoever waited has an answer by now, or was sent away

    routes = [
        Route("/health", health, methods=["GET"]),
        Route("/v1/card", guarded(get_card), methods=["GET"]),
        Route("/v1/mean", guarded(mean), methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: http_error}, lifespan=lifespan)
    app.router.redirect_slashes = False
    app.state.stop = stop  # for `Server`: from now on new requests get 503
    app.state.ended = lambda: not runner.alive()
    return app


def _of_samples(prior: Denoiser) -> dict[str, Any]:
    """What a card says of the numbers of a sample: the range of their values, and what their kind of data needs to know
    beside (`Domain.card`)."""
    domain = domain_of(prior)
    limits = prior.card.get("range", (-1, 1) if domain is None else domain.bounds)
    said = {} if domain is None else dict(domain.card())
    return ({} if limits is None else {"range": list(limits)}) | ({"samples": said} if said else {})


def _stated_schedule(prior: Denoiser) -> dict[str, Any]:
    """The schedule as its card, checked to be one that a client can build."""
    stated = {"name": prior.schedule.name, **prior.schedule.config()}
    try:
        middle = torch.tensor(
            [prior.schedule.t_min, (prior.schedule.t_min + prior.schedule.t_max) / 2, prior.schedule.t_max],
            dtype=torch.float64,
        )
        same = torch.equal(make_schedule(stated).log_snr(middle), prior.schedule.log_snr(middle))
    except (DeftError, TypeError, KeyError, ValueError, AttributeError):
        same = False
    if not same:
        raise InputError(f"clients cannot build the schedule {prior.schedule!r}: use one of deft.schedule.SCHEDULES")
    return stated


def _dry_run(runner: Runner, prior: Denoiser) -> None:
    x = torch.randn((1, *prior.event_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    middle = torch.tensor((prior.schedule.t_min + prior.schedule.t_max) / 2, dtype=torch.float64)
    try:
        mean = runner.submit(x, middle).result()
    except DeftError:
        raise
    except Exception as error:
        raise ContractError(
            f"the prior cannot run on a sample of its own event shape {prior.event_shape}: {plain(error)}"
        ) from error
    if bad_rows(mean):
        raise ContractError("the prior's mean of a random state is not finite: look at its weights and its convention")


def _read(body: bytes, shape: tuple[int, ...], prior: Denoiser, max_batch: int) -> tuple[Tensor, Tensor]:
    """(x_t float32 [B, *E], t float64 [B] or []) of a request, or the reason why not."""
    try:
        found = unpack(body)
    except ValueError as error:
        raise Refusal(400, f"the body is no safetensors file ({error}): send the tensors x_t and t as one") from error
    wanted = f"x_t float32 [B, {', '.join(map(str, shape))}] and t float64 [B] or []"
    got = plain({k: described(v) for k, v in found.items()})
    if set(found) != {"x_t", "t"}:
        raise Refusal(422, f"got the tensors {got}, expected {wanted}")
    x_t, t = found["x_t"], found["t"]
    if (
        x_t.dtype != torch.float32
        or t.dtype != torch.float64
        or x_t.ndim != 1 + len(shape)
        or tuple(x_t.shape[1:]) != shape
    ):
        raise Refusal(422, f"got the tensors {got}, expected {wanted}")
    if len(x_t) < 1 or t.shape not in ((), (len(x_t),)):
        raise Refusal(422, f"got the tensors {got}, expected {wanted}, B at least 1")
    if len(x_t) > max_batch:
        raise Refusal(413, f"got {len(x_t)} rows, at most {max_batch} are taken at once: split the batch")
    if bad := bad_rows(x_t):
        raise Refusal(422, f"x_t is not finite in {bad}: send numbers")
    low, high = prior.schedule.t_min, prior.schedule.t_max
    slack = 1e-6 * (high - low)  # a time that was rounded to float32 on its way
    if not bool(((t >= low - slack) & (t <= high + slack)).all()):
        raise Refusal(
            422,
            f"t is outside the schedule's range: got {float(t.min()):g} to {float(t.max()):g}, expected {low:g} to"
            f" {high:g}",
        )
    return x_t, t


def _write(mean: Tensor) -> bytes:
    if bad := bad_rows(mean):
        log.error("the prior returned a mean that is not finite in %s", bad)
        raise Refusal(500, f"the prior returned a mean that is not finite in {bad}: leave these rows out")
    return pack(mean=mean)


# Running it.


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. `InputError` if the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"cannot listen on {host!r}: {plain(error)}; give an address of this machine, such as 127.0.0.1"
        ) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(128)
    except (OSError, OverflowError) as error:
        sock.close()
        raise InputError(
            f"cannot listen on {host}:{port} ({plain(getattr(error, 'strerror', None) or error)}): give another port (0"
            " takes a free one)"
        ) from error
    return sock


def _uvicorn() -> Any:
    try:
        import uvicorn
    except ImportError as error:
        raise InputError("serving a prior needs starlette and uvicorn: pip install 'deft-diffusion[serve]'") from error
    return uvicorn


def _server(app: Any, hosts: Iterable[str] | None, grace: float, limits: dict[str, Any]) -> Any:
    uvicorn = _uvicorn()
    from deft.remote.connections import AT_ONCE, IDLE_SECONDS, Connection, Limits, Server

    config = uvicorn.Config(
        Door(app, hosts),
        http=functools.partial(Connection, limits=Limits(**limits)),
        log_level="error",
        access_log=False,
        proxy_headers=False,
        backlog=AT_ONCE,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=grace,
        h11_max_incomplete_event_size=MAX_HEAD,
        ws="none",
    )
    return Server(config, getattr(getattr(app, "state", None), "stop", lambda: None))


def serve(
    prior: Denoiser,
    host: str = "127.0.0.1",
    port: int = 8765,
    *,
    token: str | None = None,
    no_token: bool = False,
    allow_hosts: Iterable[str] = (),
    max_connections: int = 256,
    head_seconds: float = 10.0,
    grace: float = 10.0,
    ready: Callable[[str], None] | None = None,
    **options: Any,
) -> bool:
    """Serve a prior until Ctrl-C or SIGTERM.

    Then no more connections are taken, what was asked for has `grace` seconds to be finished, and what is not finished
    by then is answered with 503 and Retry-After. A second Ctrl-C ends at once.

    Args:
        host: 127.0.0.1 is reached from this machine alone; 0.0.0.0 is every address it has.
        port: 0 takes a free one.
        token: what clients must send. Beyond this machine one is required, unless `no_token` says that anyone may ask.
            The connection is plain HTTP: put a proxy that speaks TLS in front where others can listen.
        allow_hosts: names by which the service may be asked for, beside the loopback addresses and `host`. On a
            loopback address other names are refused (421); elsewhere every name is answered unless some are given.
        max_connections: most that are open at once; fewer where the system grants fewer files. When one more comes, the
            one that has been without a request for longest is closed.
        head_seconds: longest a client may take to send the headers of a request.
        grace: seconds.
        ready: called with the URL once the socket listens.
        options: of `make_app`.

    Returns:
        Whether everything has ended: False if a forward pass is still running, in a thread that ends with the process.

    Raises:
        InputError: the address cannot be had, no token for a public address, a setting of the wrong type or out of
            range, or uvicorn is missing.
    """
    _uvicorn()
    if not isinstance(host, str) or not host:
        raise InputError(f"host must be an address of this machine, such as 127.0.0.1; got {plain(repr(host), 80)}")
    whole("a service", "port", port, 0, 65_535)
    whole("a service", "max_connections", max_connections, 1, 100_000)
    real("a service", "head_seconds", head_seconds, 0.001, 86_400.0)
    real("a service", "grace", grace, 0.0, 86_400.0)
    hosts = _names(allow_hosts)
    if token is None and not no_token and not is_loopback(host):
        raise InputError(
            f"{host} can be reached from other machines, and no token was given: set {TOKEN} or give --token-file, or"
            " --no-token to let anyone in"
        )
    limits = {
        "connections": min(max_connections, _files()),
        "head_seconds": head_seconds,
        "answer_seconds": options.get("body_seconds", 30.0),
    }
    sock = listen(host, port)
    with sock:
        app = make_app(prior, token=token, **options)
        server = _server(app, {*hosts, host} if hosts or is_loopback(host) else None, grace, limits)
        with suppress(KeyboardInterrupt), _sigterm():  # uvicorn shuts down in order, and then passes the signal on
            if ready:
                ready(_url(host, sock))
            server.run(sockets=[sock])
        return bool(app.state.ended())


def _names(hosts: Iterable[str]) -> set[str]:
    found = [hosts] if isinstance(hosts, str) else list(hosts)
    for name in found:
        if not isinstance(name, str) or not host_name(f"[{name}]" if name.count(":") > 1 else name):
            raise InputError(
                f"a name to allow is one host, such as priors.example.org; got {plain(repr(name), 80)}: give it without"
                " http:// and path"
            )
    return {n if n.count(":") > 1 else host_name(n) for n in found}


def _files() -> int:
    """How many connections the files that this process may open leave room for."""
    try:
        import resource
    except ImportError:  # Windows
        return 100_000
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        100_000 if soft == resource.RLIM_INFINITY else max(8, soft - 192)
    )  # what else is open, and what is not counted yet


@contextmanager
def _sigterm() -> Iterator[None]:
    """SIGTERM is Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


@contextmanager
def running(app: Starlette, port: int = 0, *, grace: float = 10.0, **limits: float) -> Iterator[str]:
    """Run an ASGI application in a thread of this process, on 127.0.0.1, and give its URL.

    grace: seconds to finish what is running at the end. limits: of `deft.remote.connections.Limits`.
    """
    with listen("127.0.0.1", port) as sock:
        server = _server(app, (), grace, {"connections": min(256, _files()), **limits})
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            yield _url("127.0.0.1", sock)
        finally:
            server.should_exit = True
            thread.join(grace + 5)


def _url(host: str, sock: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"
