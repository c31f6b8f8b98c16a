"""A prior behind HTTP: the same numbers as the local one, and a clear word whenever something is wrong.

Both processes compute with one thread: sums over several are taken in another order.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
import torch
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import deft
from deft.core.schedule import Rescaled
from deft.denoiser import MeanDenoiser
from deft.domains.image.tasks import Inpaint
from deft.errors import ContractError, DeftError, InputError, NonFiniteError
from deft.io.h_files import load_h, save_h
from deft.prior import load_own
from deft.remote import client as remote
from deft.remote.client import HEADER, RemoteDenoiser, pack, unpack
from deft.remote.server import is_loopback, make_app, running, serve
from deft.schedule import SCHEDULES, VPTable
from deft.train.cache import PredictionCache
from deft.train.data import Clean
from toys import refused, toy_prior

# `deft serve`, with a pause before each forward pass.
COMMAND = """
import os, sys, time
from deft.cli.serve import serve
from deft.domains.image.prior import ImagePrior
forward = ImagePrior.forward
def slow(self, x_t, t):
    time.sleep(float(os.environ.get("PAUSE", 0)))
    return forward(self, x_t, t)
ImagePrior.forward = slow
serve()
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No token from outside, no proxies, short pauses."""
    for name in ("DEFT_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remote, "BACKOFF", (0.02, 0.2))


@pytest.fixture(scope="module")
def prior_file(tmp_path_factory):
    return toy_prior(tmp_path_factory.mktemp("prior") / "toy.safetensors")


@pytest.fixture(scope="module")
def local(prior_file):
    return load_own(prior_file)


def launch(prior_file, *more, port=0, pause=0.0, **env):
    env = (
        {k: v for k, v in os.environ.items() if k != "DEFT_TOKEN"} | {"OMP_NUM_THREADS": "1", "PAUSE": str(pause)} | env
    )
    line = [sys.executable, "-c", COMMAND, str(prior_file), "--port", str(port), "--json", *more]
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def url_of(process):
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate()[1])
    return json.loads(line)["url"]


def end(process):
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def service(prior_file):
    process = launch(prior_file, "--max-batch", "16")
    yield url_of(process)
    end(process)


@pytest.fixture
def there(service):
    return RemoteDenoiser(service)


def state(n=3, seed=0):
    return torch.randn((n, 1, 16, 16), generator=torch.Generator().manual_seed(seed))


def t_of(value, n=None):
    t = torch.tensor(value, dtype=torch.float64)
    return t if n is None else t.expand(n).contiguous()


def observation(n=2):
    return Inpaint().observe(state(n, 5).clamp(-1, 1), deft.Noise(3, n))


def small_h(seed=0):
    torch.manual_seed(seed)
    return deft.DEFT((1, 16, 16), Inpaint.feature_channels, 4)


CONFIG = deft.FitConfig(steps=4, batch=4, warmup=1, seed=1)


def fitted(prior, batches=None):
    h = small_h().calibrate(prior, state(8, 2))
    batches = batches or Clean(state(12, 4).clamp(-1, 1), Inpaint())
    return deft.fit(h, deft.DenoisingObjective(prior), batches, config=CONFIG, device="cpu", progress=False).module


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# The same numbers.


def test_what_the_card_says(there, local):
    assert there.event_shape == local.event_shape and repr(there.schedule) == repr(local.schedule)
    assert deft.fingerprint(there) == deft.fingerprint(local) and there.describe() == local.describe()
    assert there.parameter_count() == local.parameter_count() > 0
    assert there.card["name"] == "toy" and there.card["range"] == [-1, 1] and there.card["limits"]["max_batch"] == 16
    assert there.state_dict() == {} and not list(there.parameters())
    assert deft.DEFT.sized(there, 0.4, 2).width == deft.DEFT.sized(local, 0.4, 2).width


@pytest.mark.parametrize("n", [1, 5, 16])
def test_the_mean_is_the_local_one(there, local, n):
    x = state(n)
    for t in (t_of(0.37), torch.tensor(0.37), torch.linspace(0, 1, n, dtype=torch.float64)):
        got, expected = there(x, t), local(x, t)
        assert all(torch.equal(getattr(got, k), getattr(expected, k)) for k in ("x_t", "t", "alpha", "sigma", "mean"))


def test_every_schedule_arrives_whole():
    for schedule in [c() for k, c in SCHEDULES.items() if k != "vp-table"] + [
        VPTable.linear(50),
        Rescaled(deft.VPLinear(), 2.0),
    ]:
        prior = MeanDenoiser(lambda x, a, s: a * x / (a**2 + s**2), schedule, (3,))
        with running(make_app(prior)) as url:
            there = RemoteDenoiser(url)
            t = torch.linspace(schedule.t_min, schedule.t_max, 7, dtype=torch.float64)
            assert torch.equal(there.schedule.log_snr(t), schedule.log_snr(t))
            assert deft.sample(there, 2, steps=3).equal(deft.sample(prior, 2, steps=3))
            there(torch.ones(7, 3), t.float())  # times rounded outward to float32 are taken
            with pytest.raises(InputError, match="does not say how many parameters"):
                deft.DEFT.sized(there, 0.09, 1)


def test_a_fit_is_the_local_one(there, local, tmp_path):
    h, mine = fitted(there), fitted(local)
    assert same_weights(h, mine) and not same_weights(h, small_h())
    save_h(tmp_path / "h.safetensors", h, there, Inpaint())
    for prior in (local, there):  # an h belongs to the prior, wherever that runs
        assert same_weights(load_h(tmp_path / "h.safetensors", prior)[0], mine)


def test_a_bank_is_the_local_one(there, local):
    banks = [PredictionCache.build(p, state(6, 4).clamp(-1, 1), Inpaint(), 12, chunk=8) for p in (there, local)]
    assert torch.equal(banks[0].prediction.mean, banks[1].prediction.mean)
    assert same_weights(fitted(there, banks[0]), fitted(local, banks[1]))


@pytest.mark.parametrize("sampler", [deft.DDIM(), deft.Heun()], ids=["ddim", "heun"])
def test_samples_are_the_local_ones(there, local, sampler):
    h = small_h()
    got, expected = (deft.sample_posterior(p, h, observation(), 2, steps=4, sampler=sampler).x for p in (there, local))
    assert torch.equal(got, expected)


def test_large_batches_are_split(there, local):
    x, t = state(37), torch.linspace(0, 1, 37, dtype=torch.float64)
    split = torch.cat([local(x[i : i + 16], t[i : i + 16]).mean for i in range(0, 37, 16)])
    assert torch.equal(there(x, t).mean, split)
    few = RemoteDenoiser(there.url, batch=5)
    assert torch.equal(
        few(x, t_of(0.4)).mean, torch.cat([local(x[i : i + 5], t_of(0.4)).mean for i in range(0, 37, 5)])
    )
    assert few(x[:0], t_of(0.4)).mean.shape == (0, 1, 16, 16)


def test_other_dtypes_go_over_the_wire_in_float32(there, local):
    x = state(2).double()
    got = there(x, t_of(0.5))
    assert got.mean.dtype == torch.float64 and torch.equal(got.mean, local(x.float(), t_of(0.5)).mean.double())


def test_what_differentiates_through_the_prior_says_so(there):
    for h in (deft.DPS(), deft.PiGDM()):
        with pytest.raises(ContractError, match=rf"{type(h).__name__} differentiates .* RemoteDenoiser .*DEFT"):
            deft.condition(there, h, observation())
    assert not there(state().requires_grad_(), t_of(0.5)).mean.requires_grad


def test_concurrent_requests_do_not_mix(service, local):
    there = RemoteDenoiser(service)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: there(state(1 + i % 4, i), t_of(0.1 + i / 30)).mean, range(24)))
    assert all(torch.equal(m, local(state(1 + i % 4, i), t_of(0.1 + i / 30)).mean) for i, m in enumerate(found))


# A service that goes away.


def test_a_fit_outlives_its_service(prior_file, local, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    processes = [launch(prior_file, port=port, pause=0.15)]

    def restart():
        processes[0].kill()  # SIGKILL, with a request in the middle of its forward pass
        processes.append(launch(prior_file, port=port))

    class Data(Clean):
        def draw(self, size, seed, step, *more, **others):
            if step == 2 and len(processes) == 1:
                threading.Timer(0.07, restart).start()
            return super().draw(size, seed, step, *more, **others)

    try:
        there = RemoteDenoiser(url_of(processes[0]), wait=60)
        h = fitted(there, Data(state(12, 4).clamp(-1, 1), Inpaint()))
        assert len(processes) == 2 and same_weights(h, fitted(local))
        end(processes[1])
        processes.append(launch(toy_prior(tmp_path / "other.safetensors", seed=1), port=port))
        url_of(processes[2])
        with pytest.raises(ContractError, match="now serves another prior") as caught:
            there(state(), t_of(0.5))
        assert deft.fingerprint(local)[:12] in str(caught.value)
        assert RemoteDenoiser(there.url).fingerprint() != there.fingerprint()
        processes[2].send_signal(signal.SIGINT)  # Ctrl-C
        _, err = processes[2].communicate(timeout=20)
        assert processes[2].returncode == 0 and "stopped" in err and "Traceback" not in err
        with pytest.raises(InputError, match=r"stayed away for 0\.2 s"):
            there.wait = 0.2
            there(state(), t_of(0.5))
    finally:
        for process in processes:
            end(process)


def test_no_service(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(InputError, match=r"no service at http://127.0.0.1:\d+ .*deft serve"):
        RemoteDenoiser(f"http://127.0.0.1:{port}")
    with pytest.raises(InputError, match="name is not known"):
        RemoteDenoiser("http://no-such-host.invalid")


@pytest.mark.parametrize(
    "url",
    ["localhost:80", "ftp://host", "http://", "http://host:99999", "http://me:secret@host", "http://host/?key=secret"],
)
def test_addresses_that_are_none(url):
    with pytest.raises(InputError, match="address of a service") as caught:
        RemoteDenoiser(url)
    assert "secret" not in str(caught.value)


class Slow(MeanDenoiser):
    """Takes its time, and counts."""

    def __init__(self, seconds=0.0, first=0.0):
        super().__init__(lambda x, a, s: a * x / (a**2 + s**2), deft.VPCosine(), (4,))
        self.seconds, self.first, self.calls = seconds, first, 0

    def forward(self, x_t, t):
        self.calls += 1
        time.sleep(self.first if self.first and self.calls == 2 else self.seconds)  # call 1 is the dry run
        return super().forward(x_t, t)


def test_a_slow_service():
    prior = Slow(first=0.6)
    with running(make_app(prior)) as url:
        there = RemoteDenoiser(url)
        there.timeout = 0.4
        assert torch.equal(there(torch.ones(2, 4), t_of(0.5)).mean, prior(torch.ones(2, 4), t_of(0.5)).mean)
    with running(make_app(Slow(0.3))) as url:
        there = RemoteDenoiser(url, retries=2)
        there.timeout = 0.1
        with pytest.raises(InputError, match=r"did not answer within 0.1 s, 3 times over: give a longer timeout"):
            there(torch.ones(2, 4), t_of(0.5))


def test_health_while_busy_and_a_full_queue():
    with running(make_app(Slow(0.8), max_waiting=1)) as url, ThreadPoolExecutor(1) as pool:
        there = RemoteDenoiser(url)
        running_one = pool.submit(there, torch.ones(1, 4), t_of(0.5))
        time.sleep(0.2)
        assert httpx.get(url + "/health").json() == {"status": "ok", "ready": True, "waiting": 1}
        full = httpx.post(url + "/v1/mean", content=pack(x_t=torch.ones(1, 4), t=t_of(0.5)))
        assert not running_one.done()
        assert full.status_code == 503 and int(full.headers["retry-after"]) >= 1 and "waiting" in full.json()["error"]
        assert there(torch.ones(1, 4), t_of(0.5)).mean.shape == (1, 4)  # it came back as asked
        assert running_one.result().mean.shape == (1, 4)


def test_nobody_waits_nothing_runs():
    prior = Slow(0.9)
    with running(make_app(prior)) as url:
        body = pack(x_t=torch.ones(1, 4), t=t_of(0.5))

        def give_up():
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url + "/v1/mean", content=body, timeout=0.2)

        threads = [threading.Thread(target=give_up) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(1.1)
        assert prior.calls == 2  # the dry run, and the one that had begun
        assert httpx.get(url + "/health").json()["waiting"] == 0


def test_merging_is_an_option():
    prior = Slow(0.1)
    with running(make_app(prior, merge_ms=100, max_batch=8)) as url, ThreadPoolExecutor(6) as pool:
        there = RemoteDenoiser(url)
        before = prior.calls
        found = list(pool.map(lambda i: there(state(2, i)[:, 0, 0, :4], t_of(0.1 + i / 10)).mean, range(6)))
        assert 2 <= prior.calls - before <= 5  # 12 rows, 8 at once
        for i, mean in enumerate(found):
            torch.testing.assert_close(mean, prior(state(2, i)[:, 0, 0, :4], t_of(0.1 + i / 10)).mean)


def test_a_merged_request_does_not_fail_with_another():
    def mean(x, a, s):
        if (x == 7).any():
            raise RuntimeError("no sevens")
        return x * a

    prior = MeanDenoiser(mean, deft.VPCosine(), (4,))
    with running(make_app(prior, merge_ms=200)) as url, ThreadPoolExecutor(2) as pool:
        there = RemoteDenoiser(url)
        good = pool.submit(there, torch.ones(1, 4), t_of(0.5))
        with pytest.raises(
            ContractError, match=r"failed \(500 the prior failed on this batch \(RuntimeError\)"
        ) as caught:
            there(torch.full((1, 4), 7.0), t_of(0.5))
        assert "sevens" not in str(caught.value)
        assert good.result().mean.shape == (1, 4) and there(torch.ones(1, 4), t_of(0.5)).mean.shape == (1, 4)


def test_a_model_that_exits_does_not_end_the_service():
    def mean(x, a, s):
        if len(x) == 3:
            sys.exit("gone")
        return x * (torch.nan if len(x) == 2 else 1)

    with running(make_app(MeanDenoiser(mean, deft.VPCosine(), (4,)))) as url:
        there = RemoteDenoiser(url)
        for n, match in ((3, "failed on this batch"), (2, "not finite in rows 0, 1")):
            with pytest.raises(ContractError, match=match):
                there(torch.ones(n, 4), t_of(0.5))
        assert there(torch.ones(1, 4), t_of(0.5)).mean.shape == (1, 4)


# Requests that are none.


def post(url, body, **headers):
    answer = httpx.post(url + "/v1/mean", content=body, headers=headers)
    error = answer.json()["error"]
    assert "\n" not in error and answer.headers["content-type"] == "application/json" and answer.headers[HEADER]
    return answer.status_code, error


X = torch.zeros(2, 1, 16, 16)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "no safetensors"),
        (b"rubbish" * 9, 400, "no safetensors"),
        (pickle.dumps({"x_t": [1.0]}), 400, "no safetensors"),
        ((1 << 40).to_bytes(8, "little") + b"{}", 400, "no safetensors"),
        (pack(x_t=X, t=t_of(0.5, 2))[:-5], 400, "no safetensors"),
        (pack(x_t=X), 422, "expected x_t float32"),
        (pack(x_t=X, t=t_of(0.5), y=X + 1), 422, "expected x_t float32"),
        (pack(x_t=X.double(), t=t_of(0.5)), 422, "float64 [2, 1, 16, 16]"),
        (pack(x_t=X, t=t_of(0.5).float()), 422, "and t float64"),
        (pack(x_t=X[:, :, :8], t=t_of(0.5)), 422, "float32 [2, 1, 8, 16]"),
        (pack(x_t=X[0], t=t_of(0.5)), 422, "expected x_t float32"),
        (pack(x_t=X[:0], t=t_of(0.5)), 422, "B at least 1"),
        (pack(x_t=X, t=t_of(0.5, 3)), 422, "B at least 1"),
        (pack(x_t=torch.cat([X, X * torch.nan]), t=t_of(0.5)), 422, "not finite in rows 2, 3"),
        (pack(x_t=X, t=t_of(1.5)), 422, "outside the schedule's range"),
        (pack(x_t=X, t=t_of(float("nan"))), 422, "outside the schedule's range"),
        (pack(x_t=torch.zeros(17, 1, 16, 16), t=t_of(0.5)), 413, "at most 16"),
        (bytes(200_000), 413, "larger than"),
    ],
)
def test_bad_bodies(service, body, status, says):
    got, error = post(service, body)
    assert got == status and says in error, error


def test_a_body_without_a_length_is_not_read_to_its_end(service):
    sent = []

    def endless():
        for _ in range(2000):
            sent.append(1)
            yield bytes(10_000)

    with suppress(httpx.TransportError):  # the service closes the connection on those who go on sending
        assert httpx.post(service + "/v1/mean", content=endless()).status_code == 413
    assert len(sent) < 2000
    assert httpx.get(service + "/health").json()["status"] == "ok"


def test_a_body_that_does_not_come():
    with running(make_app(Slow(), body_seconds=0.2)) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5) as sock:
            sock.sendall(b"POST /v1/mean HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nhalf")
            answer = b"".join(iter(lambda: sock.recv(10_000), b"")).decode()
        assert answer.startswith("HTTP/1.1 408") and "was not sent within 0.2 s" in answer


def test_paths_and_methods(service):
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/v1/weights", 404),
        ("GET", "/v1/mean", 405),
        ("POST", "/v1/card", 405),
    ):
        answer = httpx.request(method, service + path)
        assert answer.status_code == status and "POST /v1/mean" in answer.json()["error"]


def test_the_token(monkeypatch, local):
    with running(make_app(local, token="open-sesame")) as url:
        assert httpx.get(url + "/health").status_code == 200
        assert httpx.get(url + "/v1/card").status_code == 401 and HEADER not in httpx.get(url + "/v1/card").headers
        with pytest.raises(InputError, match="no token was given; set DEFT_TOKEN"):
            RemoteDenoiser(url)
        with pytest.raises(InputError, match="not the one it expects") as caught:
            RemoteDenoiser(url, token="open-sesam")
        assert "open-sesam" not in str(caught.value)
        there = RemoteDenoiser(url, token="open-sesame")
        there(state(), t_of(0.5))
        for text in (repr(there), str(there.card), str(there.state_dict()), str(there.describe()), str(vars(there))):
            assert "sesame" not in text
        for dump in (pickle.dumps, lambda v: torch.save(v, stream := io.BytesIO()) or stream.getvalue()):
            assert b"sesame" not in dump(there)
        copy.deepcopy(there)(state(), t_of(0.5))
        read_back = pickle.loads(pickle.dumps(there))
        with pytest.raises(InputError, match="no token was given"):
            read_back(state(), t_of(0.5))
        monkeypatch.setenv("DEFT_TOKEN", "open-sesame")
        pickle.loads(pickle.dumps(there))(state(), t_of(0.5))
        RemoteDenoiser(url)
    for token in ("", "two words", "näh", "line\n"):
        with pytest.raises(InputError, match="printable ASCII"):
            RemoteDenoiser("http://127.0.0.1:1", token=token)


# Services that lie.


@pytest.fixture(scope="module")
def liar(local):
    """(url, answers): a service whose next answers are taken from a list of functions of the request's tensors."""
    answers, card = [], {}
    with running(make_app(local)) as url:
        honest = httpx.get(url + "/v1/card")
        card |= honest.json()

    def says(body, headers):
        return Response(body, headers={HEADER: card["fingerprint"]} | headers)

    async def get_card(request):
        return JSONResponse(card, headers={HEADER: card["fingerprint"]})

    async def mean(request):
        made = (answers.pop(0) if len(answers) > 1 else answers[0])(unpack(await request.body()))
        if isinstance(made, Response):
            return made
        return says(made if isinstance(made, bytes) else pack(**made), {})

    app = Starlette(routes=[Route("/v1/card", get_card), Route("/v1/mean", mean, methods=["POST"])])
    with running(app) as url:
        yield url, answers, card


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (lambda r: {"mean": r["x_t"][:, :, :8]}, ContractError, r"returned .*float32 \[3, 1, 8, 16\].*expected"),
        (lambda r: {"mean": r["x_t"][:2]}, ContractError, r"float32 \[2, 1, 16, 16\]"),
        (lambda r: {"mean": r["x_t"].double()}, ContractError, "(float64|more than)"),
        (lambda r: {"mean": r["x_t"].half()}, ContractError, "float16"),
        (lambda r: {"x": r["x_t"]}, ContractError, "returned {'x'"),
        (
            lambda r: {"mean": torch.where(torch.arange(3)[:, None, None, None] == 1, torch.nan, r["x_t"])},
            NonFiniteError,
            "not finite in row 1:",
        ),
        (lambda r: b"<html>", ContractError, "no safetensors"),
        (lambda r: bytes(10**6), ContractError, "more than the"),
        (lambda r: Response(pack(mean=r["x_t"])), ContractError, "does not say which prior"),
        (lambda r: Response(b"", headers={HEADER: "another"}), ContractError, "now serves another prior"),
        (
            lambda r: Response(b"x", headers={HEADER: "another"}, status_code=503),
            ContractError,
            "now serves another prior",
        ),
        (
            lambda r: PlainTextResponse("\x1b[31mno\nlunch", 418),
            ContractError,
            r"refused the request \(418 \[31mno lunch\)",
        ),
        (
            lambda r: PlainTextResponse("", 302, {"location": "http://elsewhere"}),
            InputError,
            "points to http://elsewhere",
        ),
        (lambda r: PlainTextResponse("boom", 500), ContractError, "failed .500 boom"),
        (
            lambda r: Response(b"rubbish" * 9, headers={"content-encoding": "gzip"}),
            InputError,
            "not how a `deft serve` answers",
        ),
    ],
)
def test_lies(liar, answer, error, match):
    url, answers, _ = liar
    answers[:] = [answer]
    there = RemoteDenoiser(url)
    with pytest.raises(error, match=match) as caught:
        there(state(), t_of(0.5))
    assert url in str(caught.value) and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_rows_are_counted_over_the_whole_batch(liar):
    url, answers, _ = liar
    answers[:] = [lambda r: {"mean": r["x_t"]}, lambda r: {"mean": r["x_t"] * torch.inf}]
    with pytest.raises(NonFiniteError, match="rows 4, 5"):
        RemoteDenoiser(url, batch=4)(state(6), t_of(0.5))
    answers[:] = [lambda r: {"mean": r["x_t"]}]
    with pytest.raises(NonFiniteError, match="x_t is not finite in row 2 of 3, and was not sent"):
        RemoteDenoiser(url)(torch.where(torch.arange(3)[:, None, None, None] == 2, torch.inf, state()), t_of(0.5))
    with pytest.raises(ContractError, match="x_t has shape"):
        RemoteDenoiser(url)(state()[:, :, :8], t_of(0.5))
    with pytest.raises(InputError, match=r"t has shape \(2,\), expected one number"):
        RemoteDenoiser(url)(state(), t_of(0.5, 2))


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_that_asks_to_come_back(liar, status):
    url, answers, _ = liar
    busy = PlainTextResponse("busy", status, {"retry-after": "0.3"})
    answers[:] = [lambda r: busy, lambda r: busy, lambda r: {"mean": r["x_t"]}]
    started = time.monotonic()
    assert torch.equal(RemoteDenoiser(url)(state(), t_of(0.5)).mean, state())
    assert time.monotonic() - started >= 0.6
    answers[:] = [lambda r: PlainTextResponse("busy", status, {"retry-after": "99"})]
    with pytest.raises(InputError, match=rf"asks to come back in 99 s \({status} busy\)"):
        RemoteDenoiser(url, wait=5)(state(), t_of(0.5))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"schedule": {"name": "secret-sauce"}}, InputError, "unknown schedule 'secret-sauce'"),
        ({"schedule": {"name": "edm", "rho": 7}}, InputError, "cannot build"),
        ({"event_shape": [1, "x"]}, ContractError, "not the card of a prior"),
        ({"event_shape": None}, ContractError, "not the card of a prior"),
        ({"limits": {}}, ContractError, "'max_batch' is missing"),
        ({"output": "eps"}, ContractError, "expected a 'mean'"),
        ({"format": 2}, InputError, "format 2"),
    ],
)
def test_cards_that_are_none(liar, change, error, match):
    url, _, card = liar
    before = dict(card)
    try:
        card |= change
        with pytest.raises(error, match=match):
            RemoteDenoiser(url)
    finally:
        card |= before


# Starting the service.


def test_ports_and_hosts(prior_file, capsys, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert "give another port" in refused(capsys, "serve", prior_file, "--port", sock.getsockname()[1])
    assert "DEFT_TOKEN" in refused(capsys, "serve", prior_file, "--host", "0.0.0.0", "--port", 0)
    assert "address of this machine" in refused(
        capsys, "serve", prior_file, "--host", "no-such-host.invalid", "--no-token"
    )
    assert "cannot read the token file" in refused(capsys, "serve", prior_file, "--token-file", tmp_path / "none")
    (tmp_path / "token").write_text("\n")
    assert "is empty" in refused(capsys, "serve", prior_file, "--token-file", tmp_path / "token")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'deft-diffusion[serve]'" in refused(capsys, "serve", prior_file)
    assert (
        is_loopback("127.0.0.1")
        and is_loopback("::1")
        and is_loopback("localhost")
        and not is_loopback("0.0.0.0")
        and not is_loopback("example.org")
    )


def test_a_token_file(prior_file, tmp_path):
    (tmp_path / "token").write_text("open-sesame\n")
    process = launch(prior_file, "--token-file", str(tmp_path / "token"), "--host", "0.0.0.0", "--name", "vendor's")
    try:
        url = url_of(process).replace("0.0.0.0", "127.0.0.1")
        assert RemoteDenoiser(url, token="open-sesame").card["name"] == "vendor's"
        assert httpx.get(url + "/v1/card").status_code == 401
    finally:
        end(process)


def test_without_httpx(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(InputError, match=r"pip install 'deft-diffusion\[remote\]'"):
        RemoteDenoiser("http://127.0.0.1:1")


def test_priors_that_cannot_be_served():
    class Own(deft.VPCosine):
        name = "own"

    good = MeanDenoiser(lambda x, a, s: x, deft.VPCosine(), (4,))
    for prior, options, match in (
        (MeanDenoiser(lambda x, a, s: x, Own(), (4,)), {}, "clients cannot build the schedule"),
        (MeanDenoiser(lambda x, a, s: x[:, :2], deft.VPCosine(), (4,)), {}, "expected"),
        (MeanDenoiser(lambda x, a, s: x @ a, deft.VPCosine(), (4,)), {}, "cannot run"),
        (MeanDenoiser(lambda x, a, s: x * torch.nan, deft.VPCosine(), (4,)), {}, "not finite"),
        (good, {"max_batch": 0}, "at least 1"),
        (good, {"merge_ms": -1}, "merge_ms"),
        (good, {"token": "two words"}, "printable ASCII"),
    ):
        with pytest.raises(DeftError, match=match):
            make_app(prior, **options)
    with pytest.raises(InputError, match="no token was given"):
        serve(good, "0.0.0.0", 0)
    for bad in ({"timeout": 0}, {"retries": -1}, {"wait": -1}, {"batch": 0}):
        with pytest.raises(InputError, match="a remote prior needs"):
            RemoteDenoiser("http://127.0.0.1:1", **bad)
