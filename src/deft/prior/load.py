"""load_prior(name): whatever a user calls a prior, as a frozen denoiser.

`FAMILIES` is the table: for each family of models how a name is recognised and how it is loaded. The first row that
recognises a name has it. Kinds of data add families of their own (`Domain.families`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from deft.arguments import checks_arguments
from deft.core.denoiser import Denoiser, freeze
from deft.denoiser.tiled import OVERLAP, Tiled
from deft.errors import CheckpointError, DeftError, InputError, unknown
from deft.io.files import check_header
from deft.io.graph_files import graph_kind
from deft.io.prior_files import BUNDLED, load_own
from deft.io.states import SUFFIXES, kinds_of, levels, read_any
from deft.io.torch_files import BY_FUNCTION, external_format
from deft.kinds.domain import Family, Table
from deft.prior import diffusers
from deft.prior.conventions import CONVENTIONS
from deft.prior.options import (
    ADM_KINDS,
    DIFFUSERS_KINDS,
    EDM_KINDS,
    EXPORTED_KINDS,
    OWN_KINDS,
    REMOTE_KINDS,
    STATE_KINDS,
    TEXT_KINDS,
    TILE_KINDS,
    typed,
)
from deft.prior.probing import try_once
from deft.prior.single import is_single, load_single
from deft.runtime.importable import cannot_run, find_function
from deft.runtime.messages import log
from deft.schedule import SCHEDULES, VPTable
from deft.tensors import as_device
from deft.values import quoted


def _own(name: str) -> bool:
    path = Path(name)
    if name in BUNDLED or (path / "prior.safetensors").is_file():
        return True
    others = (_is_adm, _is_edm, _is_state)
    return path.is_file() and path.suffix == ".safetensors" and not any(of(name) for of in others)


def _is_adm(name: str) -> bool:
    path = Path(name)
    if not path.is_file() or path.suffix not in (".pt", ".pth", ".safetensors", ".ckpt", ".bin"):
        return False
    return path.suffix != ".safetensors" or any(k.endswith("input_blocks.0.0.weight") for k in _keys(path))


def _is_edm(name: str) -> bool:
    if Path(name).suffix in (".pkl", ".pickle"):  # nobody else keeps networks in such files
        return Path(name).is_file()
    return bool({"edm", "edm2"} & _networks(name))


def _is_state(name: str) -> bool:
    return "diffusers" in _networks(name)


def _is_single(name: str) -> bool:
    return "single" in _networks(name)


def _networks(name: str) -> frozenset[str]:
    """Kinds of networks (`deft.io.states.KNOWN`) in a file of weights."""
    path = Path(name)
    if not path.is_file() or path.suffix not in SUFFIXES:
        return frozenset()
    about = path.stat()
    return _networks_of(path.resolve(), about.st_mtime_ns, about.st_size)


@lru_cache(64)  # several families ask, and an old format is read as a whole
def _networks_of(path: Path, changed: int, size: int) -> frozenset[str]:
    if path.suffix == ".safetensors":
        keys = _keys(path)
        return frozenset(kinds_of(dict.fromkeys(keys))) | ({"single"} if is_single(keys) else set())
    try:
        whole = read_any(path)
        single = any(is_single(map(str, level)) for _, level, _ in levels(whole))
        return frozenset(kinds_of(whole)) | ({"single"} if single else set())
    except CheckpointError:  # whoever loads it says so
        return frozenset()


def _load_adm(name: str, device: torch.device | str = "cpu", **options: Any) -> Denoiser:
    from deft.prior.adm import load_adm

    if isinstance(options.get("config"), (str, Path)) and Path(options["config"]).is_dir():
        read_any(Path(name))  # what cannot be read of a model of diffusers says so, and not that ADM has no such config
    return load_adm(name, device=device, **options)


def _load_edm(name: str, device: torch.device | str = "cpu", **options: Any) -> Denoiser:
    from deft.prior.edm import load_edm

    return load_edm(name, device=device, **options)


def _is_exported(name: str) -> bool:
    return graph_kind(Path(name)) is not None


def _load_exported(name: str, device: torch.device | str = "cpu", **options: Any) -> Denoiser:
    from deft.prior.exported import load_exported

    return load_exported(name, device=device, **options)


def _keys(path: Path) -> list[str]:
    from safetensors import safe_open

    try:
        check_header(path)
        with safe_open(path, framework="pt") as f:
            return list(f.keys())
    except Exception:  # damaged: whoever loads it says so
        return []


def _is_function(name: str) -> bool:
    module, _, function = name.rpartition(":")
    return bool(module) and function.isidentifier() and not name.startswith(("http:", "https:"))


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not Path(name).exists() and not name.startswith((".", "/", "~"))


def load_function(name: str, device: torch.device | str = "cpu", **options: Any) -> Denoiser:
    """'package.module:function' or 'file.py:function': call it, with the options, for a denoiser. It is your code that
    runs."""
    make = find_function(name, "a function that returns a deft.Denoiser")
    try:
        made = make(**options)
    except DeftError:
        raise
    except TypeError as error:  # most of these are options that it does not take
        raise InputError(f"{name}: {error}") from error
    except Exception as error:
        raise cannot_run(name.rpartition(":")[0], error) from error
    if not isinstance(made, Denoiser):
        got = "nothing" if made is None else f"a value of the type {type(made).__name__}"
        raise InputError(f"{name} returned {got}, expected a deft.Denoiser (see deft.prior.wrap)")
    freeze(made)
    made.card = {"family": "python", "name": name} | made.card
    made = made.to(device)
    try_once(made, name)
    return made


def load_remote(name: str, device: torch.device | str = "cpu", **options: Any) -> Denoiser:
    """The client of `deft serve` (deft.remote.client), imported when it is wanted."""
    from deft.remote.client import RemoteDenoiser

    if "token" in options:
        raise InputError("a token on the command line is seen by everybody on the machine: set DEFT_TOKEN instead")
    return RemoteDenoiser(name, **options).to(device)


OURS: dict[str, Family] = {
    "remote": Family(
        "a prior behind `deft serve`, by its URL",
        lambda n: n.startswith(("http://", "https://")),
        load_remote,
        REMOTE_KINDS,
    ),
    "deft": Family("bundled, or made by `deft prior train`", _own, load_own, OWN_KINDS),
    "diffusers": Family(
        "a folder written by diffusers",
        lambda n: Path(n).is_dir() and diffusers.recognise(Path(n)),
        diffusers.load_diffusers,
        DIFFUSERS_KINDS,
    ),
    "exported": Family("a graph: ONNX, TorchScript, torch.export", _is_exported, _load_exported, EXPORTED_KINDS),
}
"""Asked first."""
OTHERS: dict[str, Family] = {
    "edm": Family("a pickle or a state dict of EDM or EDM2", _is_edm, _load_edm, EDM_KINDS),
    "single": Family("Stable Diffusion in one file", _is_single, load_single, STATE_KINDS),
    "state": Family("a state dict of a model of diffusers", _is_state, diffusers.load_state, STATE_KINDS),
    "adm": Family("a state dict of guided-diffusion (ADM)", _is_adm, _load_adm, ADM_KINDS),
    "python": Family(
        "FILE.py:FUNCTION or package.module:FUNCTION that returns a denoiser", _is_function, load_function
    ),
    "hub": Family("a model on the hub, by its id OWNER/NAME", _is_hub_id, diffusers.load_diffusers, DIFFUSERS_KINDS),
}
"""Asked last, for they recognise much."""


class Families(Mapping[str, Family]):
    """name -> family, in the order in which they are asked: ours, those of each kind of data, and the rest."""

    def _rows(self) -> dict[str, Family]:
        return {**OURS, **{k: v for k, v in Table(lambda d: d.families()).items() if k not in OURS}, **OTHERS}

    def __getitem__(self, key: str) -> Family:
        return self._rows()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())


FAMILIES: Mapping[str, Family] = Families()
"""name -> family, in the order in which they are asked."""


def family_of(name: str | Path) -> str:
    """The family that recognises a name.

    Raises:
        InputError: none does; the message says what there is.
    """
    for family, row in FAMILIES.items():
        if row.recognise(str(name)):
            return family
    path = Path(name)
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{path} holds no prior that is known here (it holds {inside}): expected prior.safetensors, a diffusers "
            "model_index.json or config.json, or a file of weights"
        )
    if path.exists():
        named = external_format(path)
        raise CheckpointError(
            named
            or f"{path} is no prior that is known here: expected .safetensors, or a .pt state dict of guided-diffusion;"
            f" or {BY_FUNCTION}"
        )
    if "://" in str(name):
        raise InputError(f"a service is asked by http:// or https://, got {quoted(str(name))}")
    if path.suffix or "/" in str(name):
        raise InputError(f"no such prior: {path} does not exist")
    raise InputError(f"{unknown('prior', str(name), BUNDLED)}; or the path of a file or folder that is there")


RESERVED = {
    "name": "the name of a prior is no option of it: give it as --prior (prior = in a file)",
    "device": "where a prior computes is no option of it: give it as --device",
}
"""Arguments of `load_prior` that are no options, and what to do instead."""


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE texts as options of `load_prior`: numbers, true/false, a,b for two numbers, else a text; `load_prior`
    says what each must be.

    >>> read_options(["output=v", "value_range=0,1", "label=3"])
    {'output': 'v', 'value_range': (0.0, 1.0), 'label': 3}
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--prior-option takes KEY=VALUE, got {quoted(pair)}")
        if key in RESERVED:
            raise InputError(f"{pair}: {RESERVED[key]}")
        if key in out:
            raise InputError(f"{key} is given twice: {key}={out[key]} and {pair}")
        out[key] = _value(key, value)
    return out


AS_WRITTEN = ("prompt", "negative_prompt", "embeddings", "lora")
"""Options that are texts, whatever they look like."""
FILES = ("embeddings", "lora")
"""Options that are files, which what is fitted to a prior names by their absolute paths."""


def _value(key: str, text: str) -> Any:
    if key in AS_WRITTEN:
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    if "," in text:
        kind = int if key in ("event_shape", "tiled", "sides", "image_size", "attention_resolutions") else float
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            pass
    return text


def resolve(options: dict[str, Any]) -> dict[str, Any]:
    """Names spelled out: convention=NAME becomes what it stands for, schedule=NAME a schedule with its usual
    settings."""
    out = dict(options)
    name = out.pop("convention", None)
    if name is not None:
        if not isinstance(name, str) or name not in CONVENTIONS:
            raise unknown("convention", str(name), CONVENTIONS)
        # all that a convention says, over whatever a file does
        usual = {"scale_input": False, "sigma_data": 1.0, "value_range": (-1.0, 1.0)}
        out = usual | CONVENTIONS[name].make() | out
    schedule = out.get("schedule")
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise unknown("schedule", schedule, SCHEDULES)
        out["schedule"] = VPTable.linear() if schedule == VPTable.name else SCHEDULES[schedule]()
    return out


def check_options(name: str | Path, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(family, the options as its loader takes them) of a prior, without loading it.

    Raises:
        InputError, CheckpointError: no such prior, or an option that it does not take.
    """
    family = family_of(name)
    load, kinds = FAMILIES[family].load, FAMILIES[family].options
    _check_text(name, family, options)
    takes = dict(inspect.signature(load).parameters)
    if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        for key in options:
            if key not in takes and key not in TILE_KINDS:
                known = [k for k in takes if k not in ("name", "device")]
                if not known:
                    raise InputError(f"{name} is read as its file says and takes no options, got {key!r}")
                raise unknown(f"option of a prior of the family {family}", key, known)
    return family, dict(options) if family == "python" else resolve(typed(TILE_KINDS | dict(kinds), options))


def _check_text(name: str | Path, family: str, options: Mapping[str, Any]) -> None:
    """Refuse a prompt where there is none to give: a function may take one, and only models of diffusers do beside."""
    if family in ("diffusers", "single", "state", "hub", "python"):
        return
    if family == "adm" and not _networks(str(name)):  # a file that cannot be read is what its loader says first
        return
    for key in (*TEXT_KINDS, "lora", "lora_scale"):
        if options.get(key) is not None and key not in FAMILIES[family].options:
            whose = (
                "the prompt of a prior behind a service is the service's own: give it to `deft serve`"
                if family == "remote"
                else f"{name} has no text encoder; {key} is for models of diffusers: leave it out"
            )
            raise InputError(f"{key}={quoted(options[key])}: {whose}")


@checks_arguments
def load_prior(name: str | Path, device: torch.device | str = "cpu", **options: Any) -> Denoiser:
    """A prior by name, frozen: bundled, a file, a folder, a URL, a function, a hub id (see `FAMILIES`).

    Args:
        options: of the family's loader (prompt, guidance_scale, label, variant, config, token, ...; event_shape=(C, H,
            W) for another size than the network was trained on), and the convention where what the files say is to be
            overruled: convention (a key of `CONVENTIONS`), output, schedule, time, value_range, scale_input,
            sigma_data, learned_variance (see `NetworkDenoiser`). tiled=(C, H, W) and overlap make larger samples from
            tiles of the prior's own size (`deft.denoiser.Tiled`).

    Raises:
        InputError, CheckpointError: what was given, what was expected, what to do.
    """
    device = as_device(device)
    family, chosen = check_options(name, options)
    load, kinds = FAMILIES[family].load, FAMILIES[family].options
    takes = dict(inspect.signature(load).parameters)
    tiles = {} if family == "python" else {k: chosen.pop(k) for k in TILE_KINDS if chosen.get(k) is not None}
    if "overlap" in tiles and "tiled" not in tiles:
        raise InputError("overlap is that of tiles: give tiled=CHANNELS,HEIGHT,WIDTH too")
    try:
        prior = load(str(name), device=device, **chosen)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        wrong = str(error).split("'")[1]
        every = {*CONVENTION_OPTIONS, *kinds, *(k for k in takes if k not in ("name", "device", "changes", "options"))}
        raise unknown(f"option of a prior of the family {family}", wrong, every) from error
    if tiles:
        prior = freeze(Tiled(prior, tiles["tiled"], tiles.get("overlap", OVERLAP)))
    prior.card.setdefault("family", family)
    prior.loaded_as = absolute_name(str(name))
    if str(name) in BUNDLED and _own(f"./{name}"):
        log.warning(f"note: {name} is the bundled prior; the folder of that name is ./{name}")
    prior.loaded_with = tuple(
        f"{key}={option_text(_found(key, value))}"
        for key, value in options.items()
        if key not in ("token", "trust_pickle")
    )
    return prior


def _found(key: str, value: Any) -> Any:
    return str(Path(value).resolve()) if key in FILES and isinstance(value, (str, Path)) else value


def absolute_name(name: str) -> str:
    """A prior's name for a card: a bundled one as it is, even where a file is called so; a file by its absolute
    path."""
    if name in BUNDLED:
        return name
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py") and Path(file).exists():
        return f"{Path(file).resolve()}:{function}"
    return str(Path(name).resolve()) if Path(name).exists() else name


def option_text(value: Any) -> str:
    """A value as `read_options` reads it.

    >>> option_text((0.0, 1.0)), option_text(True), option_text("v")
    ('0.0,1.0', 'true', 'v')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


CONVENTION_OPTIONS = (
    "convention",
    "output",
    "schedule",
    "time",
    "value_range",
    "scale_input",
    "sigma_data",
    "learned_variance",
)
"""Options every adapter to a network takes."""
