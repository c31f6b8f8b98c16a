"""A prior behind a closed API: its denoised means come over HTTP, its weights stay where they are.

DEFT asks the prior for E[x_0 | x_t] and for nothing else (no gradient, no activations), so a service that answers that
one question is prior enough. `deft.remote.server` is such a service; docs/remote.md has the wire format for others.
"""

from __future__ import annotations

import email.utils
import http.cookiejar
import logging
import math
import operator
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, Prediction
from deft.core.schedule import Schedule
from deft.errors import ContractError, DeftError, InputError, NonFiniteError
from deft.io.reading import json_table, parse_json
from deft.schedule import make_schedule

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("deft.remote")

FORMAT = 1
"""Version of the wire format."""
HEADER = "x-deft-prior"
"""The response header that says which prior answered."""
TOKEN = "DEFT_TOKEN"
"""The environment variable a token is read from."""
SLACK = 1 << 16
"""Bytes granted to a message beside the numbers in it."""
MOST_CARD = 1 << 22
"""Bytes of a card."""
MOST_ERROR = 1 << 16
"""Bytes of an answer that is an error."""
MOST_HEAD = 1 << 17
"""Bytes of an answer's first line and headers."""
MOST_NAME = 200
"""Characters of a name or a fingerprint in a card."""
MOST_NUMBERS = 1 << 28
"""Numbers in one sample: 1 GiB in float32."""
MOST_TABLE = 1 << 15
"""Bytes of the table at the beginning of a safetensors file of one or two tensors."""
WHOLE = 2.0
"""A request as a whole may take so many times `timeout`."""
AWAY = (429, 502, 503, 504)
"""Status codes of a service that is there, only not for us now."""
FIRST_WAIT = 10.0
"""Seconds a service may take to appear when a client is made: the two are often started together."""
DAY = 86_400.0
BACKOFF = (0.25, 5.0)
"""First and longest pause between two tries, in seconds."""


# The wire: safetensors in both directions. Nothing is ever unpickled.


def pack(**tensors: Tensor) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    from safetensors.torch import save

    return save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})


def unpack(body: bytes) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file; `ValueError` if they are no such thing."""
    from safetensors.torch import load

    if len(body) < 8 or int.from_bytes(body[:8], "little") > MOST_TABLE:
        raise ValueError(f"its first 8 bytes are no length of a table, of {MOST_TABLE:,} bytes at most")
    try:
        return load(body)
    except Exception as error:  # whatever a parser raises for bytes that nobody foresaw
        raise ValueError(plain(error)) from error


def described(tensor: Tensor) -> str:
    """'float32 [4, 1, 32, 32]'."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def bad_rows(x: Tensor, first: int = 0) -> str:
    """Which rows of x [B, ...] are not finite, in words ('' if none); rows are counted from `first`."""
    rows = (~torch.isfinite(x.reshape(len(x), math.prod(x.shape[1:]))).all(1)).nonzero().flatten() + first
    if not len(rows):
        return ""
    return (
        f"{'row' if len(rows) == 1 else 'rows'}"
        f" {', '.join(map(str, rows[:8].tolist()))}{', ...' if len(rows) > 8 else ''}"
    )


def plain(text: object, most: int = 300) -> str:
    """A stranger's text as one short line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:most]


def whole(who: str, name: str, value: Any, low: int, high: int) -> int:
    """`value` if it is a whole number in [low, high], else an `InputError` that names it."""
    try:
        if isinstance(value, (bool, Tensor)):
            raise TypeError
        n = operator.index(value)
    except TypeError:
        n = low - 1
    if not low <= n <= high:
        raise InputError(
            f"{who} needs {name}, a whole number of at least {low:,} and at most {high:,}; got {plain(repr(value), 80)}"
        )
    return n


def real(who: str, name: str, value: Any, low: float, high: float) -> float:
    """`value` if it is a finite number in [low, high], else an `InputError` that names it."""
    try:
        x = math.nan if isinstance(value, (bool, str, bytes, Tensor)) else float(value)
    except (TypeError, ValueError, OverflowError):
        x = math.nan
    if not low <= x <= high:
        raise InputError(
            f"{who} needs {name}, a number of at least {low:g} and at most {high:g}; got {plain(repr(value), 80)}"
        )
    return x


# The client.


class Token:
    """A bearer token that shows in no repr and is in no pickle: where one is read back, it comes from DEFT_TOKEN
    again."""

    def __init__(self, value: str | None = None):
        value = os.environ.get(TOKEN) or None if value is None else value
        if value is not None and (
            not value or not value.isascii() or any(c.isspace() or not c.isprintable() for c in value)
        ):
            raise InputError("a token must be printable ASCII without spaces, and not empty: give another one")
        self.value = value

    def __repr__(self) -> str:
        return "Token(none)" if self.value is None else "Token(...)"

    def __deepcopy__(self, memo: object) -> Token:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Token, ()


class RemoteDenoiser(Denoiser):
    """A denoiser whose mean is computed by a service: mean = POST url/v1/mean (x_t, t).

    Schedule, event shape, fingerprint and size come from the service's card (GET url/v1/card). Everything beside the
    mean is computed here, so a fit or a sample is the local one, bit for bit, if the service runs the same model on the
    same batches, kind of device and number of threads (docs/remote.md, "What is exact"). The mean has no gradient:
    methods that differentiate through the prior (DPS, PiGDM) say so and stop; DEFT does not need one. x_t goes over the
    wire in float32 and the mean comes back in it, whatever the dtype and device of x_t. `.to(device)` chooses where
    samples are kept.

    Args:
        url: http:// or https://, with a path if the service has one; no user, password, query or fragment.
        token: sent as `Authorization: Bearer`; default: the environment variable DEFT_TOKEN. In no repr, card,
            state_dict or pickle.
        timeout: seconds to wait for an answer to begin, or to go on. A request as a whole, sent and answered, may take
            twice that.
        retries: how often a request is repeated that was taken but not answered within `timeout`.
        wait: seconds to keep trying, request by request, while the service is away: connection refused or lost,
            or status 429, 502, 503, 504 (`Retry-After` is honoured). When the client is made, 10 at most.
        batch: most rows sent at once, if fewer than the service takes. Larger batches are split, which may change the
            last bits of the means.

    Raises:
        InputError: no such service, a token it refuses, or one that stays away for longer than `wait`.
        ContractError: an answer that is not what was asked for (shape, dtype, another prior than before).
        NonFiniteError: NaN or infinity in x_t (then nothing is sent), or in the mean; the message has the rows.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        wait: float = 300.0,
        batch: int | None = None,
    ):
        super().__init__()
        self.differentiable = False
        ours = "a remote prior"
        self.url = _address(url)
        self.timeout, self.wait = real(ours, "timeout", timeout, 0.001, DAY), real(ours, "wait", wait, 0.0, 30 * DAY)
        self.retries = whole(ours, "retries", retries, 0, 1_000_000)
        self.batch = None if batch is None else whole(ours, "batch", batch, 1, 2**31 - 1)
        self._token, self._fingerprint = Token(token), ""
        self._client: tuple[httpx.Client, Bounds] | None = None
        self._where: Tensor
        self.register_buffer("_where", torch.empty(0), persistent=False)  # follows .to(device); see Denoiser.state_like
        self._read_card(self._ask("GET", "/v1/card", None, MOST_CARD, min(self.wait, FIRST_WAIT), first=True))

    def _read_card(self, body: bytes) -> None:
        where, what = f"{self.url}/v1/card", "the card of a prior"
        try:
            card = json_table(parse_json(body, where, what, ContractError), where, what, ContractError)
            if card["format"] != FORMAT or isinstance(card["format"], bool):
                raise InputError(
                    f"{self.url} speaks format {plain(card['format'], 40)} of the wire, this client {FORMAT}: bring"
                    " both to one version of deft"
                )
            if card["output"] != "mean" or card["dtype"] != "float32":
                raise ValueError(
                    f"output {card['output']!r} of dtype {card['dtype']!r}, expected a 'mean' of 'float32'"
                )
            self.event_shape = _shape(card["event_shape"])
            if not _is_text(card["fingerprint"]):
                raise ValueError(f"its fingerprint is not a text of 1 to {MOST_NAME} printable ASCII characters")
            self._fingerprint = self._fingerprint or card["fingerprint"]
            if self._fingerprint != card["fingerprint"]:
                raise ValueError(f"its fingerprint is not the one in its header {HEADER}")
            self._count = None if card.get("parameters") is None else _whole(card["parameters"], "parameters")
            self._convention = dict(_table(card, "convention"))
            limits = _table(card, "limits")
            self._rows, most = _whole(limits["max_batch"], "max_batch"), limits.get("max_bytes")
            if most is not None:
                row = 4 * math.prod(self.event_shape) + 8
                self._rows = max(1, min(self._rows, (_whole(most, "max_bytes") - SLACK // 2) // row))
            if card.get("range") is not None:
                card["range"] = _range(card["range"])
            if "name" in card:
                card["name"] = plain(card["name"], MOST_NAME)
            self.schedule = self._read_schedule(_table(card, "schedule"))
            samples = _table(card, "samples") if card.get("samples") is not None else {}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            if isinstance(error, DeftError):
                raise
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ContractError(
                f"{self.url}/v1/card is not the card of a prior ({plain(reason)}): is this the address of a"
                " `deft serve`?"
            ) from error
        kept = ("name", "event_shape", "schedule", "fingerprint", "range", "parameters", "limits", "stands_for")
        known = {"kind": "prior", "family": "remote", "url": self.url} | {k: card[k] for k in kept if k in card}
        self.card = {k: v for k, v in samples.items() if k not in (*kept, "sha256")} | known

    def _read_schedule(self, config: dict[str, Any]) -> Schedule:
        try:
            if not isinstance(config.get("name"), str):
                raise ValueError("it has no name")
            schedule = make_schedule(config)
            low, high = schedule.t_min, schedule.t_max
            t = torch.tensor([low, (low + high) / 2, high], dtype=torch.float64)
            snr = schedule.log_snr(t)
            if (
                not (math.isfinite(high - low) and low < high)
                or bool(snr.isnan().any())
                or not snr[0] > snr[1] > snr[2]
            ):
                raise ValueError(f"its noise does not grow from t={low:g} to t={high:g}")
            return schedule
        except Exception as error:  # arguments of any type, and so any error
            raise InputError(
                f"{self.url} states a schedule that this version of deft cannot build ({plain(error)}): bring both to"
                " one version, or serve the prior with one of the library's schedules"
            ) from error

    def extra_repr(self) -> str:
        return f"{self.url!r}, event_shape={self.event_shape}, schedule={self.schedule!r}"

    def fingerprint(self) -> str:
        """The service's: an h fitted to the prior where its weights are belongs to this one too, and the reverse."""
        return self._fingerprint

    def describe(self) -> dict[str, Any]:
        """The convention of the model behind the service, as far as it says."""
        return dict(self._convention) or super().describe()

    def parameter_count(self) -> int:
        """As many as the service says; `InputError` if it does not say."""
        if self._count is None:
            raise InputError(
                f"{self.url} does not say how many parameters its prior has: give h's width (DEFT(..., width=32)), not"
                " a share of the prior's size"
            )
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None}  # connections stay in their process

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        """x_t [B, *E]; t [B], or a scalar for all rows. The mean is cut off from x_t."""
        level, alpha, sigma = self.coefficients(t, x_t)
        return Prediction(x_t, level, alpha, sigma, self.mean(x_t, t))

    @torch.no_grad()
    def mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t] from the service, [B, *E], of the dtype and on the device of x_t."""
        if x_t.shape[1:] != self.event_shape or t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, len(x_t))):
            raise ContractError(
                f"x_t has shape {tuple(x_t.shape)} and t {tuple(t.shape)}, expected (B,"
                f" {', '.join(map(str, self.event_shape))}) and () or (B,)"
            )
        x = x_t.detach().to("cpu", torch.float32).contiguous()
        if bad := bad_rows(x):
            raise NonFiniteError(
                f"x_t is not finite in {bad} of {len(x)}, and was not sent to {self.url}: lower the guidance or add"
                " steps"
            )
        level = t.detach().to("cpu", torch.float64)
        # one level for all rows stays one number, as it is locally
        level = level.reshape(()) if level.numel() == 1 else level
        rows = self._rows if self.batch is None else min(self._rows, self.batch)
        out = [torch.empty_like(x)[:0]]
        for low in range(0, len(x), rows):
            part = slice(low, low + rows)
            out.append(self._mean(x[part], level if level.ndim == 0 else level[part], low))
        return torch.cat(out[1:] or out).to(x_t)

    def _mean(self, x: Tensor, t: Tensor, first: int) -> Tensor:
        body = self._ask("POST", "/v1/mean", pack(x_t=x, t=t), 4 * x.numel() + SLACK, self.wait)
        try:
            found = unpack(body)
        except ValueError as error:
            raise ContractError(
                f"{self.url}/v1/mean returned no safetensors file ({error}): ask whoever runs the service"
            ) from error
        got = {k: described(v) for k, v in found.items()}
        if got != {"mean": described(x)}:
            raise ContractError(
                f"{self.url}/v1/mean returned {plain(got)}, expected {{'mean': {described(x)!r}}}: ask whoever runs the"
                " service"
            )
        if bad := bad_rows(found["mean"], first):
            raise NonFiniteError(
                f"{self.url} returned a mean that is not finite in {bad}: ask whoever runs the service"
            )
        return found["mean"]

    # One request, as often as it takes. It is a pure function of its body, so to repeat it is safe.

    def _ask(self, method: str, path: str, body: bytes | None, most: int, wait: float, first: bool = False) -> bytes:
        """The body of the answer 200."""
        httpx = _httpx()
        started = away = time.monotonic()
        slow, tries, told = 0, 0, False
        while True:
            asked, late, began = 0.0, False, time.monotonic()
            try:
                status, headers, data = self._once(method, path, body, most)
            except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
                slow, late, away = slow + 1, True, time.monotonic()
                longest = WHOLE * self.timeout
                whole_time = time.monotonic() - began >= 0.99 * longest
                within = f"in full within {longest:g} s" if whole_time else f"within {self.timeout:g} s"
                why = f"no answer {within}"
                if first or slow > self.retries:
                    raise InputError(
                        f"{self.url} did not answer {within}, {slow} times over: "
                        "give a longer timeout, send fewer rows at once (batch), or look at the service"
                    ) from error
            except httpx.RequestError as error:
                why = plain(str(error) or type(error).__name__, 120)
                if fatal := _fatal(error, first):
                    raise InputError(f"no service at {self.url} ({why}): {fatal}") from error
            except (DeftError, MemoryError):
                raise
            except Exception as error:  # of a library that was given what nobody foresaw
                raise InputError(f"no service at {self.url} ({plain(error, 120)}): {NOT_OURS}") from error
            else:
                self._same_prior(path, status, headers)
                if status == 200:
                    if told:
                        log.warning("%s is back after %.0f s", self.url, time.monotonic() - started)
                    return data
                why = f"{status} {_said(data)}".strip()
                if status not in AWAY:
                    raise self._refused(status, why, headers)
                asked = _retry_after(headers.get("retry-after"))
            left = away + wait - time.monotonic()
            if not late and (left <= 0 or asked > left):
                raise self._gone(why, wait, asked, first)
            # the first repetition is quiet: a connection that was idle for long may just have been closed
            if not told and (tries or asked > 1 or time.monotonic() - started > 1):
                log.warning("%s: %s; trying for another %.0f s", self.url, why, left)
                told = True
            low, high = BACKOFF
            pause = min(high, low * 2 ** min(tries, 30)) * _RANDOM.uniform(0.5, 1.0)
            time.sleep(max(0.0, min(pause, left), asked))
            tries += 1

    def _once(self, method: str, path: str, body: bytes | None, most: int) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body) of one request. Bytes are counted as they come, and no further than `most` are read;
        none is unpacked."""
        kind = {} if body is None else {"content-type": "application/octet-stream"}
        limits = _httpx().Timeout(self.timeout, connect=min(10.0, self.timeout))
        client, bounds = self._connection()
        bounds.start(WHOLE * self.timeout, most + MOST_HEAD)
        try:
            with client.stream(method, self.url + path, content=body, headers=kind, timeout=limits) as answer:
                status, headers = answer.status_code, answer.headers
                packed = headers.get("content-encoding", "identity").strip().lower() != "identity"
                if packed and status == 200:
                    raise InputError(
                        f"{self.url}{path} answers with the encoding {plain(headers['content-encoding'], 40)!r}, asked"
                        f" for plain bytes: {NOT_OURS}"
                    )
                if status != 200:
                    most = min(most, MOST_ERROR)
                data = bytearray()
                for chunk in () if packed else answer.iter_raw():
                    data += chunk
                    if len(data) > most:
                        if status == 200:
                            raise self._too_much(path, most)
                        break
                return status, headers, bytes(data)
        except TooMuch as error:
            raise self._too_much(path, most) from error
        finally:
            bounds.stop()

    def _too_much(self, path: str, most: int) -> ContractError:
        return ContractError(
            f"{self.url}{path} returned more than the {most:,} bytes expected: ask whoever runs the service"
        )

    def _connection(self) -> tuple[httpx.Client, Bounds]:
        if self._client is None:
            httpx, token = _httpx(), self._token.value
            headers = {"accept-encoding": "identity"} | ({} if token is None else {"authorization": f"Bearer {token}"})
            nothing = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
            # a token is for one address, and cookies are not kept
            client = httpx.Client(headers=headers, follow_redirects=False, cookies=nothing)
            self._client = client, Bounds(client)
        return self._client

    def _same_prior(self, path: str, status: int, headers: Mapping[str, str]) -> None:
        now = headers.get(HEADER)
        if now is None:  # on the way there may be proxies, whose own 502 does not know
            if status == 200:
                raise ContractError(
                    f"{self.url}{path} does not say which prior answered (header {HEADER}): is this the address of a"
                    " `deft serve`?"
                )
            return
        if self._fingerprint and now != self._fingerprint:
            raise ContractError(
                f"{self.url} now serves another prior ({plain(now, 12)}..., before {self._fingerprint[:12]}...): "
                "serve the first one again, or start again with this one"
            )
        self._fingerprint = now

    def _refused(self, status: int, why: str, headers: Mapping[str, str]) -> Exception:
        if status in (401, 403):
            have = "no token was given" if self._token.value is None else "the token given is not the one it expects"
            return InputError(f"{self.url} wants a token ({status}): {have}; set {TOKEN}, or give token=")
        if status in (404, 405):
            return InputError(
                f"{self.url} is not the address of a prior ({why}): give the one that `deft serve` prints"
            )
        if 300 <= status < 400:
            return InputError(
                f"{self.url} points to {plain(headers.get('location', 'another address'))} ({status}): give that"
                " address"
            )
        if status == 421:
            return InputError(f"{self.url} is another name than the service's ({why})")
        if status >= 500:
            return ContractError(f"{self.url} failed ({why}): ask whoever runs the service")
        return ContractError(f"{self.url} refused the request ({why})")

    def _gone(self, why: str, wait: float, asked: float, first: bool) -> InputError:
        if asked > wait:
            return InputError(
                f"{self.url} asks to come back in {asked:g} s ({why}): do so, or give a longer wait (now {wait:g} s)"
            )
        if first:
            return InputError(
                f"no service at {self.url} ({why}): check the address, or start one with `deft serve PRIOR`"
            )
        return InputError(
            f"{self.url} stayed away for {wait:g} s ({why}): start the service again and resume, or give a longer wait"
        )


NOT_OURS = "this is not how a `deft serve` answers; check the address"
PIECE = 1 << 16
"""Bytes written to a connection at once."""
_RANDOM = random.Random()  # our own: jitter must not move anybody's seeded numbers


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise InputError("a prior behind a URL needs httpx: pip install 'deft-diffusion[remote]'") from error
    return httpx


def _address(url: str) -> str:
    """url without a slash at its end, if it is one that a client can use."""
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        ok = False
    if not ok:
        raise InputError(
            f"not the address of a service: {plain(url.rpartition('@')[2])!r}; expected http://HOST:PORT or"
            " https://HOST/PATH"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            "the address of a service must hold no user, password, query or fragment"
            f" ({parts.scheme}://{parts.hostname}/...): give the token in {TOKEN} or as token="
        )
    return url.rstrip("/")


# What a service may say of itself.


def _whole(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**53:
        raise ValueError(f"{name} is {value!r}, expected a whole number from 1 to 2^53")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8:
        raise ValueError(f"event_shape is {value!r}, expected a list of at most 8 whole numbers")
    shape = tuple(_whole(n, "a number in event_shape") for n in value)
    if math.prod(shape) > MOST_NUMBERS:
        raise ValueError(f"event_shape is {list(shape)}: more than {MOST_NUMBERS:,} numbers in one sample")
    return shape


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MOST_NAME and value.isascii() and value.isprintable()


def _table(card: dict[str, Any], name: str) -> dict[str, Any]:
    value = card.get(name, {}) if name == "convention" else card[name]
    if value is None and name == "convention":
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}, expected a table")
    return value


def _range(value: Any) -> list[Any]:
    numbers = isinstance(value, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    if not numbers or len(value) != 2 or not -math.inf < value[0] < value[1] < math.inf:
        raise ValueError(f"range is {value!r}, expected two numbers, the smaller one first")
    return value


def _said(data: bytes) -> str:
    """The error in a body, or its beginning."""
    text = data[:2000].decode("utf-8", "replace")
    try:
        return plain(json_table(parse_json(text, "", "an error", InputError), "", "an error", InputError)["error"])
    except (InputError, KeyError):
        return plain(text, 120)


def _retry_after(value: str | None) -> float:
    """Seconds from now, from a number or a date; 0 for what is neither."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError, IndexError, OSError):
            seconds = 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


# One request, as a whole.


class TooMuch(Exception):
    """More bytes than any answer has."""


class Bounds:
    """The time and the bytes that the request of this thread has left, minded at each read and write of the connections
    of `client` (those to proxies included): httpx limits single reads, and a header of a byte now and then is many."""

    def __init__(self, client: httpx.Client):
        self._now = threading.local()
        for transport in (client._transport, *client._mounts.values()):
            pool = getattr(transport, "_pool", None)
            if pool is not None:
                pool._network_backend = _backend(pool._network_backend, self)

    def start(self, seconds: float, most: int) -> None:
        self._now.until, self._now.left = time.monotonic() + seconds, most

    def stop(self) -> None:
        self._now.until = self._now.left = math.inf

    def within(self, call: Callable[[float | None], Any], timeout: float | None, overdue: type[Exception]) -> Any:
        """call(timeout), with no longer a timeout than the time left; `overdue` if none is."""
        left = getattr(self._now, "until", math.inf) - time.monotonic()
        if left <= 0:
            raise overdue("the time for a request as a whole is over")
        if left < math.inf:
            timeout = left if timeout is None else min(timeout, left)
        return call(timeout)

    def count(self, n: int) -> None:
        self._now.left = getattr(self._now, "left", math.inf) - n
        if self._now.left < 0:
            raise TooMuch


def _backend(inner: Any, bounds: Bounds) -> Any:
    """A network backend of httpcore that asks `bounds` first."""
    from httpcore import ConnectTimeout, NetworkBackend, NetworkStream, ReadTimeout, WriteTimeout

    class Stream(NetworkStream):
        def __init__(self, stream: NetworkStream):
            self.stream = stream

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            data: bytes = bounds.within(partial(self.stream.read, max_bytes), timeout, ReadTimeout)
            bounds.count(len(data))
            return data

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            for low in range(0, len(buffer), PIECE):
                bounds.within(partial(self.stream.write, buffer[low : low + PIECE]), timeout, WriteTimeout)

        def close(self) -> None:
            self.stream.close()

        def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
            return Stream(
                bounds.within(partial(self.stream.start_tls, ssl_context, server_hostname), timeout, ConnectTimeout)
            )

        def get_extra_info(self, info: str) -> Any:
            return self.stream.get_extra_info(info)

    class Backend(NetworkBackend):
        def connect_tcp(self, host: str, port: int, timeout: float | None = None, *more: Any, **options: Any) -> Any:
            def connect(left: float | None) -> Any:
                return inner.connect_tcp(host, port, left, *more, **options)

            return Stream(bounds.within(connect, timeout, ConnectTimeout))

        def connect_unix_socket(self, *given: Any, **options: Any) -> Any:
            return inner.connect_unix_socket(*given, **options)

        def sleep(self, seconds: float) -> None:
            inner.sleep(seconds)

    return Backend()


def _causes(error: BaseException) -> Iterable[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _fatal(error: Exception, first: bool) -> str:
    """What to do about an error that waiting does not mend; '' for the others."""
    if any(isinstance(e, ssl.SSLCertVerificationError) for e in _causes(error)):
        return "its certificate is not trusted here; SSL_CERT_FILE names a file with your own authority's"
    if type(error).__name__ in ("LocalProtocolError", "UnsupportedProtocol", "DecodingError", "TooManyRedirects"):
        return NOT_OURS
    if any(type(e).__module__.startswith("h11") and "peer closed" not in str(e) for e in _causes(error)):
        return NOT_OURS  # no HTTP; that the connection ended in the middle of an answer is another matter
    if first and any(isinstance(e, socket.gaierror) for e in _causes(error)):
        return "the name is not known; check the address"
    return ""
