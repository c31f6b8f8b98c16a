"""Weights in files of training code, as they come: the one place that knows how they are nested and named.

A file is a dictionary of dictionaries. Somewhere in it the tensors of a network stand under its parameter names, after
the prefixes of what was wrapped around it (DataParallel, FSDP, torch.compile, Lightning, ema_pytorch), often several
times: raw, as a moving average, as a list without names. `find_states` names every such place for one kind of network,
told by its landmarks; `choose` takes one and says which; `survey` says in words what a file holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deft.errors import CheckpointError, unknown
from deft.io.files import check_header
from deft.io.inert import Record, read_pickle, state_of
from deft.io.torch_files import BY_FUNCTION, read_torch_file

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What sharding, checkpointing and compiling put into parameter names, at any depth."""
AVERAGES = ("ema", "shadow", "average", "averaged", "swa")
"""Words in the place of a moving average."""
PLAIN = ("", "module", "model", "net", "unet")
"""Prefixes that say nothing of which network it is."""
SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".pkl", ".pickle")
"""Of files that may hold weights."""
MAX_DEPTH = 4


class Found(NamedTuple):
    """A network's weights in a file: where they were ("ema", "state_dict/model."), its tensors by their own names,
    whether they are an average, the table of betas and other single tensors beside them, and what a pickle recorded of
    the object around them."""

    where: str
    state: dict[str, Tensor]
    average: bool
    betas: Tensor | None = None
    beside: Mapping[str, Tensor] = {}
    record: Record | None = None


class Layout(NamedTuple):
    """Parameter names by which a kind of network is known; what it is; what is needed where it is not loaded here."""

    landmarks: tuple[str, ...]
    about: str
    needs: str


ADM = Layout(
    (
        "time_embed.0.weight", "time_embed.2.weight", "input_blocks.0.0.weight", "input_blocks.1.0.in_layers.2.weight",
        "middle_block.1.qkv.weight", "output_blocks.0.0.in_layers.2.weight", "out.2.weight",
    ),
    "guided-diffusion's UNet (ADM)",
    "",
)  # fmt: skip
EDM = Layout(("map_layer0.weight", "map_layer1.weight"), "a UNet of EDM", "")
EDM2 = Layout(("emb_noise.weight", "emb_fourier.freqs", "out_gain"), "the UNet of EDM2", "")
DIFFUSERS = Layout(
    ("conv_in.weight", "time_embedding.linear_1.weight"),
    "a model of diffusers",
    "its config.json and its scheduler, beside it or as config=FOLDER",
)
KNOWN: dict[str, Layout] = {
    "adm": ADM,
    "edm": EDM,
    "edm2": EDM2,
    "diffusers": DIFFUSERS,
    "lucidrains": Layout(
        ("init_conv.weight", "time_mlp.1.weight"),
        "a Unet of denoising-diffusion-pytorch (lucidrains)",
        "its class and settings, which the file does not hold: " + BY_FUNCTION
        + ", with deft.io.states.weights_of(file, 'init_conv.weight') for its weights (convention ddpm or cosine)",
    ),
    "score-sde": Layout(
        ("all_modules.0.weight", "all_modules.2.weight"),
        "a network of score_sde",
        "its class and settings: " + BY_FUNCTION + " (convention score-sde-ve or score-sde-vp)",
    ),
    "dit": Layout(
        ("x_embedder.proj.weight", "t_embedder.mlp.0.weight"),
        "a DiT, whose samples are latents",
        "its class, its settings and its autoencoder: " + BY_FUNCTION,
    ),
}  # fmt: skip
"""Kinds of networks that files are known to hold; those without needs are loaded from the file alone."""


def read_any(path: Path, *, trust_pickle: bool = False) -> Any:
    """What a file of weights holds: tensors, plain values, and records of other objects.

    Raises:
        CheckpointError: it is not there, cut off, of another kind, or holds code.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        check_header(path)
        try:
            return load_file(path)
        except Exception as error:
            raise CheckpointError(f"{path} is truncated or not a safetensors file ({error}); fetch it again") from error
    if path.suffix in (".pkl", ".pickle"):
        with path.open("rb") as f:
            packed = f.read(2) == b"PK"
        whole = None if packed else read_pickle(path)
        if not packed and not isinstance(whole, int):  # torch.save's old format starts with a number
            return whole
    return read_torch_file(
        path,
        "give --trust-pickle (in Python: trust_pickle=True) only for a file from someone you trust",
        trust_pickle=trust_pickle,
        records=True,
    )


def levels(whole: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[Any, Any], Record | None]]:
    """(place, mapping, record) of every mapping in a file, and of every recorded module the tensors; a pickle may hold
    itself, so no deeper than four."""
    if isinstance(whole, Record) and "_modules" in whole.attributes():
        yield where, state_of(whole), whole
    elif isinstance(whole, Mapping):
        yield where, whole, None
        if depth < MAX_DEPTH:
            for key, value in whole.items():
                if isinstance(value, Mapping):
                    yield from levels(value, f"{where}/{key}".lstrip("/"), depth + 1)


def unwrapped(name: object) -> str:
    """A parameter's name without what wrappers put into it."""
    out = str(name)
    for wrapper in WRAPPERS:
        out = out.replace(wrapper, "")
    return out


def find_states(whole: Any, landmarks: Sequence[str]) -> list[Found]:
    """Every network of one kind in a file: moving averages first, the outer before the inner otherwise."""
    places = list(levels(whole))
    found = [f for place in places for f in _in_level(*place, landmarks)]
    found += list(_without_names(places, found))
    return sorted(found, key=lambda f: not f.average)  # stable: in the file's order otherwise


def _in_level(where: str, level: Mapping[Any, Any], record: Record | None, landmarks: Sequence[str]) -> Iterator[Found]:
    """The networks among the names of one mapping, by their prefixes."""
    flat = {unwrapped(key): value for key, value in level.items()}
    prefixes = [
        name.removesuffix(landmarks[0])
        for name in flat
        if name.endswith(landmarks[0]) and (name == landmarks[0] or name[-len(landmarks[0]) - 1] == ".")
    ]
    for prefix in prefixes:
        longer = tuple(p for p in prefixes if p != prefix and p.startswith(prefix))
        state = {
            k.removeprefix(prefix): v
            for k, v in flat.items()
            if k.startswith(prefix) and not (longer and k.startswith(longer))
        }
        if not set(landmarks) <= state.keys():
            continue
        words = re.split(r"[^a-z]+", f"{where}/{prefix}".lower())
        average = "online" not in words and any(word in words for word in AVERAGES)
        beside: dict[str, Tensor] = {}
        for parent in parents(prefix):
            near = {k.removeprefix(parent): v for k, v in flat.items() if k.startswith(parent)}
            beside = {k: v for k, v in near.items() if "." not in k and isinstance(v, Tensor)} | beside
        betas = beside.get("betas")
        state.pop("betas", None)
        plain = all(part in PLAIN for part in prefix.split("."))
        yield Found(where if plain else f"{where}/{prefix}".strip("/"), state, average, betas, beside, record)


def parents(prefix: str) -> Iterator[str]:
    """ "a.b." -> "a.b.", "a.", ""."""
    parts = prefix.split(".")[:-1]
    for n in range(len(parts), -1, -1):
        yield "".join(part + "." for part in parts[:n])


BUFFERS = ("resample_filter", "freqs", "phases")
"""Ends of the names of tensors that are no parameters, which averages without names leave out."""


def _without_names(
    places: Iterable[tuple[str, Mapping[Any, Any], Record | None]], found: Sequence[Found]
) -> Iterator[Found]:
    """Averages kept as a list, in the order of the parameters (torch_ema, score_sde): they have the names of weights
    beside them whose shapes, in order, are theirs."""
    lists = [
        (f"{where}/{key}".lstrip("/"), value)
        for where, level, _ in places
        for key, value in level.items()
        if isinstance(value, (list, tuple)) and len(value) > 1 and all(isinstance(v, Tensor) for v in value)
    ]
    for where, values in lists:
        for raw in found:
            names = [k for k in raw.state if k.rpartition(".")[2] not in BUFFERS]
            same = len(names) == len(values) and all(
                isinstance(raw.state[k], Tensor) and raw.state[k].shape == v.shape
                for k, v in zip(names, values, strict=True)
            )
            if same:
                state = raw.state | dict(zip(names, values, strict=True))
                yield raw._replace(where=where, state=state, average=True)
                break


def choose(path: Path, found: list[Found], weights: str | None = None) -> list[Found]:
    """The same list with the network to take first.

    weights: take the one whose place in the file is this, or has this in it.

    Raises:
        InputError: no such place.
        CheckpointError: several networks that differ, none of them an average; what is no tensor of floats.
    """
    if weights is not None:
        named = [f for f in found if f.where == weights] or [f for f in found if weights in f.where]
        if not named:
            raise unknown(f"weights in {path.name}", weights, [f.where or "(the file itself)" for f in found])
        found = [named[0], *(f for f in found if f is not named[0])]
    elif not found[0].average and not all(alike(found[0].state, f.state) for f in found[1:]):
        places = ", ".join(f.where for f in found)
        raise CheckpointError(
            f"{path} holds several networks that differ ({places}): say which with weights=PLACE (--prior-option"
            f" weights={found[0].where})"
        )
    for name, value in found[0].state.items():
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            raise CheckpointError(f"{path}: {name} is no tensor of floats; give a file of plain weights")
    return found


def which(found: Sequence[Found]) -> list[str]:
    """The doubt that a file with several networks leaves: which was taken, and what else is there."""
    others = [f.where or "the file itself" for f in found[1:] if not alike(found[0].state, f.state)]
    if not others:
        return []
    return [
        f"weights: {found[0].where} was taken; the file also holds {', '.join(others)}, which differ (weights=PLACE"
        " takes another)"
    ]


def alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        isinstance(v, Tensor) and isinstance(b[k], Tensor) and v.shape == b[k].shape and torch.equal(v, b[k])
        for k, v in a.items()
    )


def weights_of(path: str | Path, landmark: str, *, weights: str | None = None) -> dict[str, Tensor]:
    """The weights of a network of yours in a file, by its own parameter names: for functions given as FILE.py:FUNCTION.

    landmark: one of its parameters' names. weights: which of several networks, by its place in the file.

    Raises:
        CheckpointError: no such network in it; the message says what there is.
    """
    path = Path(path)
    whole = read_any(path)
    found = find_states(whole, (landmark,))
    if not found:
        raise CheckpointError(f"{path} holds no {landmark}: {survey(whole) or holds(whole)}")
    return choose(path, found, weights)[0].state


def check_fit(path: Path, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], network: str) -> None:
    """Every name and shape is as expected, or `CheckpointError` says how many are not and which come first."""
    want = {name: tuple(v.shape) for name, v in expected.items()}
    faults = {
        "missing": [name for name in want if name not in state],
        "unexpected": [name for name in state if name not in want],
        "of another shape": [
            f"{name} is {tuple(state[name].shape)}, expected {shape}"
            for name, shape in want.items()
            if name in state and tuple(state[name].shape) != shape
        ],
    }
    said = [f"{len(names)} {kind} (first: {'; '.join(names[:2])})" for kind, names in faults.items() if names]
    if said:
        raise CheckpointError(f"{path} does not fit {network}: {', '.join(said)}")


# What a file holds, for people.


def kinds_of(whole: Any) -> list[str]:
    """Keys of `KNOWN` whose networks a file holds."""
    return [kind for kind, layout in KNOWN.items() if find_states(whole, layout.landmarks)]


def survey(whole: Any) -> str:
    """One line: the networks that are known by their names and where they are, and what is needed to load them; "" for
    a file without any."""
    parts = []
    for layout in KNOWN.values():
        found = find_states(whole, layout.landmarks)
        if found:
            numbers = sum(v.numel() for v in found[0].state.values() if isinstance(v, Tensor))
            places = ", ".join(f.where or "the file itself" for f in found)
            text = f"it holds {layout.about} ({numbers / 1e6:,.1f} M numbers) in {places}"
            parts.append(text + (f"; it needs {layout.needs}" if layout.needs else ""))
    return "; ".join(parts)


def holds(whole: Any) -> str:
    """The first names of a file."""
    if not isinstance(whole, Mapping) or isinstance(whole, Record):
        return f"it holds: {whole.what if isinstance(whole, Record) else type(whole).__name__}"
    return "it holds: " + ", ".join(str(k) for k in list(whole)[:3])
