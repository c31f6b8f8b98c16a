"""Options of a prior: each knows its kind, from a text of the command line as from Python; a value of another kind is
one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from deft.core.schedule import Schedule
from deft.denoiser.parametrisation import OUTPUTS, time_map
from deft.errors import InputError, unknown
from deft.nn.adm import SCHEDULES as ADM_SCHEDULES
from deft.nn.adm import ADMConfig
from deft.operator.latent import WAYS
from deft.prior.labels import NONE
from deft.schedule import SCHEDULES
from deft.values import printable


class Kind:
    """What a value is. takes: for people. of: a value, or a text, as that kind; `ValueError` or `TypeError` if it is
    none."""

    def __init__(self, takes: str, of: Callable[[Any], Any]):
        self.takes, self.of = takes, of

    def __call__(self, key: str, value: Any) -> Any:
        try:
            return self.of(value)
        except InputError:
            raise
        except (ValueError, TypeError, OverflowError):
            raise InputError(f"{key} takes {self.takes}, got {_show(value)}") from None


def _show(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value)) or "nothing"
    return repr(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    number = value if isinstance(value, int) else int(value) if isinstance(value, str) else float(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ValueError


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split(",")
    return list(value) if isinstance(value, (tuple, list, torch.Size)) else [value]


def _all(
    of: Callable[[Any], Any], low: int = 1, high: float = math.inf, least: float = -math.inf
) -> Callable[[Any], tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        found = tuple(of(v) for v in _listed(value))
        if not low <= len(found) <= high or any(v < least for v in found):
            raise ValueError
        return found

    return read


def _least(of: Callable[[Any], Any], low: float) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        found = of(value)
        if found < low:
            raise ValueError
        return found

    return read


def _range(value: Any) -> tuple[float, float]:
    low, high = _all(_number, 2, 2)(value)
    if not low < high:
        raise ValueError
    return low, high


def above(value: Any) -> float:
    found = _number(value)
    if found <= 0:
        raise ValueError
    return found


def _one_of(what: str, known: Any) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise unknown(what, str(value), known)
        return value

    return read


def _schedule(value: Any) -> Any:
    return value if isinstance(value, Schedule) else _one_of("schedule", SCHEDULES)(value)


def _time(value: Any) -> Any:
    if not (isinstance(value, str) or callable(value)):
        value = str(value)
    time_map(value)
    return value


def _label(value: Any) -> int | str:
    return NONE if isinstance(value, str) and value.lower() == NONE else _least(_whole, 0)(value)


def text(value: Any) -> str:
    if isinstance(value, bool) or not str(value):
        raise ValueError
    return str(value)


def _line(value: Any) -> str:
    if not isinstance(value, str) or not printable(value) or len(value) > MAX_PROMPT:
        raise ValueError
    return value.strip()


MAX_PROMPT = 10_000
"""Letters of a prompt; no text encoder reads more than some hundred words."""


def _numbers(value: Any) -> Any:
    found: tuple[float, ...] = _all(_number)(value)
    return found[0] if len(found) == 1 else found


def _sides(value: Any) -> Any:
    found = _all(_whole)(value)
    if len(found) != 1 or found[0] < 1:
        raise InputError(
            f"image_size is one whole number above 0, got {_show(value)}: for images that are not square give"
            " sides=HEIGHT,WIDTH"
        )
    return found[0]


TRUTH = Kind("true or false", _truth)
COUNT = Kind("a whole number above 0", _least(_whole, 1))
CONVENTION_KINDS: dict[str, Kind] = {
    "output": Kind("a name", _one_of("output kind", OUTPUTS)),
    "schedule": Kind("a name", _schedule),
    "time": Kind("a name", _time),
    "value_range": Kind("two rising numbers, what stood for black and white (-1,1 or 0,1 or 0,255)", _range),
    "scale_input": TRUTH,
    "sigma_data": Kind("a number above 0", above),
    "learned_variance": TRUTH,
}
"""Of every adapter to a network."""

TEXT_KINDS: dict[str, Kind] = {
    "prompt": Kind("one line of text", _line),
    "negative_prompt": Kind("one line of text", _line),
    "guidance_scale": Kind("a number from 1 (1 is without guidance)", _least(_number, 1)),
    "embeddings": Kind("a file of `deft prior embed`", text),
}
"""Of networks that are conditioned on a text."""

DIFFUSERS_KINDS: dict[str, Kind] = (
    CONVENTION_KINDS
    | TEXT_KINDS
    | {
        "lora": Kind("a file of LoRA weights (.safetensors)", text),
        "lora_scale": Kind("a number", _number),
        "dtype": Kind("a name", _one_of("dtype", ("float32", "float16", "bfloat16"))),
        "label": Kind("a whole number from 0, or none", _label),
        "variant": Kind("the name in the files' names (fp16)", text),
        "event_shape": Kind(
            "whole numbers above 0 with commas between them, channels first (3,64,64)", _all(_whole, 2, 4, 1)
        ),
        "gradient": Kind("a name", _one_of("gradient", WAYS)),
        "latent_scale": Kind("a number, or one for each channel with commas between them", _numbers),
        "latent_shift": Kind("a number, or one for each channel with commas between them", _numbers),
    }
)

OWN_KINDS: dict[str, Kind] = {"event_shape": DIFFUSERS_KINDS["event_shape"]}
"""Of our own files."""

TILE_KINDS: dict[str, Kind] = {
    "tiled": DIFFUSERS_KINDS["event_shape"],
    "overlap": Kind("a number from 0 to 0.9", _least(_number, 0)),
}
"""Of every prior but a function of one's own: larger samples, from overlapping tiles (`deft.denoiser.Tiled`)."""

STATE_KINDS: dict[str, Kind] = DIFFUSERS_KINDS | {
    "config": Kind("a folder that diffusers wrote", text),
    "weights": Kind("the place of a network in the file (ema, model)", text),
}
"""Of a state dict of a model of diffusers."""

_FLAGS: dict[str, Kind] = {
    "int": COUNT,
    "bool": TRUTH,
    "float": Kind("a number from 0", _least(_number, 0)),
    "str": Kind("a name", _one_of("noise schedule", ADM_SCHEDULES)),
}
ADM_KINDS: dict[str, Kind] = (
    CONVENTION_KINDS
    | OWN_KINDS
    | {f.name: _FLAGS.get(str(f.type), TRUTH) for f in fields(ADMConfig)}
    | {
        "image_size": Kind("a whole number above 0", _sides),
        "sides": Kind("two whole numbers above 0, height and width (256,384)", _all(_whole, 2, 2, 1)),
        "channel_mult": Kind("numbers above 0 with commas between them (1,2,4)", _all(above)),
        "attention_resolutions": Kind(
            "whole numbers with commas between them (32,16,8)",
            lambda v: () if v == "" else _all(_whole, 1, math.inf, 1)(v),
        ),
        "num_head_channels": Kind("a whole number above 0, or -1", _least(_whole, -1)),
        "label": Kind("a whole number from 0, or none", _label),
        "weights": Kind("the place of a network in the file (ema, model)", text),
        "dtype": Kind("a name", lambda v: v if isinstance(v, torch.dtype) else text(v)),
        "config": Kind("a name, or an ADMConfig", lambda v: v if isinstance(v, ADMConfig) else text(v)),
        "trust_pickle": TRUTH,
    }
)
"""Of guided-diffusion: its flags, under their published names, and ours."""

EDM_KINDS: dict[str, Kind] = (
    CONVENTION_KINDS
    | OWN_KINDS
    | {
        "label": Kind("a whole number from 0, or none", _label),
        "sides": Kind("two whole numbers above 0, height and width (256,384)", _all(_whole, 2, 2, 1)),
        "weights": Kind("the place of a network in the file (ema)", text),
        "preconditioning": Kind("a name (edm, vp, ve, iddpm)", text),
        "autoencoder": Kind("a folder of diffusers with an autoencoder", text),
        "gradient": Kind("a name", _one_of("gradient", WAYS)),
    }
)
"""Of EDM's networks."""

_TIME_TYPES = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64, "int64": torch.int64}


def _time_type(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        value = str(value).removeprefix("torch.")
    return _TIME_TYPES[_one_of("type of a time", _TIME_TYPES)(value)]


EXPORTED_KINDS: dict[str, Kind] = CONVENTION_KINDS | {
    "event_shape": Kind(
        "whole numbers above 0 with commas between them, channels first (3,64,64)", _all(_whole, 1, 4, 1)
    ),
    "providers": Kind(
        "names of ONNX Runtime with commas between them (CUDAExecutionProvider,CPUExecutionProvider)",
        lambda v: tuple(text(name) for name in _listed(v)),
    ),
    "batch": COUNT,
    "scalar_time": TRUTH,
    "time_dtype": Kind("a name (float32, int64)", _time_type),
}
"""Of exported graphs."""

REMOTE_KINDS: dict[str, Kind] = {
    "timeout": Kind("a number of seconds above 0", above),
    "retries": Kind("a whole number from 0", _least(_whole, 0)),
    "wait": Kind("a number of seconds from 0", _least(_number, 0)),
    "batch": COUNT,
}


def typed(kinds: Mapping[str, Callable[[str, Any], Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, each of its kind (`Family.options`); None stays (an option that is not given), and those that are
    not in the table.

    Raises:
        InputError: a value of another kind; what the option takes.
    """
    return {k: v if v is None or k not in kinds else kinds[k](k, v) for k, v in options.items()}
