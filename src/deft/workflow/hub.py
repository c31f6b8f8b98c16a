"""An h that travels: a folder that says what it is, and the way to a model hub and back.

    save_pretrained(folder, h, prior, task, licence="mit")  ->  h.safetensors, card.json, README.md (sample.png)
    push_to_hub(folder, "owner/name")
    h, task, card = from_pretrained("owner/name", prior)

The prior stays where it is: the folder names it by convention and SHA-256, and loading refuses any other with the
difference shown. Nothing a folder says is used as a path, nor run unless the caller trusts it (`trust_code`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image

from deft.core.denoiser import Denoiser
from deft.errors import CheckpointError, InputError
from deft.io.files import write_atomic, write_json, write_text
from deft.io.folders import Outputs, own_folder
from deft.io.h_files import load_h, read_h, save_h
from deft.io.identity import differences, listed, plain
from deft.io.picture_files import check_pixels, formats, reading_picture
from deft.kinds.domain import Task
from deft.learned.base import Learned, count_parameters
from deft.prior import BUNDLED, load_prior
from deft.prior.load import CONVENTION_OPTIONS
from deft.workflow.model_card import HUB_ID, read_rows, readme

WEIGHTS, CARD, README, PICTURE = "h.safetensors", "card.json", "README.md", "sample.png"
FILES = (WEIGHTS, CARD, README, PICTURE)
OUTPUTS = Outputs("hub export", (WEIGHTS, CARD, README), CARD, lambda about: [PICTURE], re.escape(PICTURE))
PICTURES = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "MPO")
"""What `picture` may be; decoders of other formats are not let near a stranger's file."""
LARGEST_CARD = 16 * 2**20
"""Bytes that a card may have."""
OWN = ("kind", "format", "h", "task", "task_code", "prior_sha256", "prior_convention")
"""Fields that are always rewritten, never taken from an older card."""
INSTALL = "the hub needs huggingface_hub: pip install 'deft-diffusion[hub]'"


def save_pretrained(
    folder: str | Path,
    h: Learned,
    prior: Denoiser,
    task: Task,
    /,
    *,
    report: str | Path | None = None,
    picture: str | Path | None = None,
    overwrite: bool = False,
    push: str | None = None,
    token: str | None = None,
    private: bool = False,
    **card: Any,
) -> dict[str, Any]:
    """Write a fitted h as a folder for others, and push it if asked to. Returns the card.

    Args:
        folder: h.safetensors, card.json, README.md and, with `picture`, sample.png are written into it.
        report: a report.json of `deft evaluate` on this task; its figures go into the card and the README.
        picture: an image to show; it is copied, without what else the file holds.
        overwrite: accept a folder with files in it.
        push, token, private: the repository OWNER/NAME to push to, as for `push_to_hub`.
        card: what else is known: prior (its name), data, licence, recipe, steps, note, name, ... Paths of this machine
            are cut down to their last part, and of `prior_options` only those that are no secret are kept.

    Raises:
        InputError: the folder is in use, the report is of another task, the picture is none, a field is no JSON.
    """
    if push is not None:
        check_repo_id(push)
    about = {k: v for k, v in card.items() if k not in OWN}
    about["prior"] = public_name(str(about.get("prior") or prior.card.get("name") or "unnamed"), prior)
    about |= {key: about.get(key) or "not stated" for key in ("data", "licence")}
    about |= {
        "parameters": count_parameters(h),
        "share": round(count_parameters(h) / max(prior.parameter_count(), 1), 5),
    }
    if HUB_ID.fullmatch(about["prior"]):
        about.setdefault("base_model", about["prior"])
    if "prior_options" in about:
        texts = ("prompt", "negative_prompt", "guidance_scale", "lora_scale", "dtype")
        kept = (*CONVENTION_OPTIONS, *texts, "label", "variant", "event_shape", "gradient", "config")
        about["prior_options"] = [p for p in map(str, about["prior_options"]) if p.partition("=")[0] in kept]
    if report is not None:
        about["metrics"] = read_rows(_read_json(Path(report)), str(report), task.config())
    try:
        about = _public(plain(about))
    except CheckpointError as error:
        raise InputError(str(error)) from error
    image = None if picture is None else _read_picture(Path(picture))
    with own_folder(folder, OUTPUTS, overwrite=overwrite, inputs=(report, picture)) as home:
        whole = plain(save_h(home / WEIGHTS, h, prior, task, **about))
        write_json(home / CARD, whole)
        if image is not None:
            write_atomic(home / PICTURE, lambda p: image.save(p, format="PNG", optimize=True))
        write_text(home / README, readme(whole, None if image is None else PICTURE, task))
    if push is not None:
        push_to_hub(folder, push, token=token, private=private)
    return whole


def from_pretrained(
    name: str | Path,
    prior: Denoiser | None = None,
    *,
    task: Task | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
    trust_code: bool = False,
) -> tuple[Learned, Any, dict[str, Any]]:
    """(h, its task, its card) from a folder, or from a hub by OWNER/NAME.

    Args:
        name: a folder made by `save_pretrained` or `deft fit`, or OWNER/NAME if there is no such folder.
        prior: what h was fitted to; if not given, the card must name a bundled one.
        task: if given, the task that h must have been fitted to.
        trust_code: import what the card names of its author's own code, as for `load_h`: that runs it.
        revision: branch, tag or commit. token: for a private repository. cache_dir: where downloads are kept.

    Reads h.safetensors and card.json, and nothing else; the card is data, never a path, and no program unless trusted.

    Raises:
        CheckpointError: a file is missing, damaged, too large or a link that leads outside; card.json and the card in
            h.safetensors disagree; another prior, convention or task, with each difference as
            `field: fitted X, given Y`.
        InputError: no such folder, the hub cannot be reached, huggingface_hub is missing.
    """
    folder = _find(name, revision, token, cache_dir)
    card = read_folder(folder)
    if prior is None:
        named = card.get("prior")
        if named not in BUNDLED:
            raise InputError(
                f"h was fitted to the prior {named!r} (sha256 {card['prior_sha256'][:12]}…), which is not bundled: give"
                " it as prior=load_prior(...)"
            )
        prior = load_prior(str(named), device)
    h, found, card = load_h(folder / WEIGHTS, prior, task, trust_code=trust_code)
    return h.to(device), found, card


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool = False,
    message: str = "Add h-transform",
) -> str:
    """Upload a folder made by `save_pretrained` to the model repository OWNER/NAME, made if need be. Returns its URL.

    Args:
        token: of the hub; if not given, the one that `hf auth login` stored or HF_TOKEN.
        private: make a new repository private.

    The folder is checked first, as for loading; its four known files are uploaded, and nothing else that lies in it.

    Raises:
        InputError, CheckpointError: as for `from_pretrained`.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    for name in (CARD, README):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}: make a folder to share with `deft hub export RUN --out FOLDER`")
    read_folder(folder)
    present = [name for name in FILES if (folder / name).exists()]
    for name in present:
        _inside(folder, name)
    hub = _hub()
    try:
        api = hub.HfApi(token=token)
        url = api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, repo_type="model", folder_path=str(folder), allow_patterns=present, commit_message=message
        )
    except Exception as error:
        raise _hub_error(error, f"cannot push to {repo_id}", token) from error
    return str(url)


def check_repo_id(repo_id: str) -> None:
    if not HUB_ID.fullmatch(repo_id) or ".." in repo_id or len(repo_id) > 96:
        raise InputError(f"a repository is OWNER/NAME (letters, digits, '-', '_', '.'), got {repo_id!r}")


# Names that may leave this machine.


def public_name(name: str, prior: Denoiser) -> str:
    """How a shared card names a prior: bundled ones and hub ids as they are, a local path by the prior's own name."""
    if name in BUNDLED or (HUB_ID.fullmatch(name) and not Path(name).exists()):
        return name
    own = str(prior.card.get("name") or "")
    if own in BUNDLED or (HUB_ID.fullmatch(own) and not Path(own).exists()):
        return own
    if name.startswith(("http://", "https://")):
        return "remote"
    for candidate in (own, name):
        last = re.split(r"[/\\]", candidate.rstrip("/\\"))[-1]
        if last:
            return last
    return "unnamed"


def public_text(text: str) -> str:
    """A text without the folders of the paths in it.

    >>> public_text("/home/ann/photos (24 images)")
    'photos (24 images)'
    """
    return re.sub(
        r"(?:(?<=\s)|(?<=^)|(?<=['\"(=]))(?:~|[A-Za-z]:|\.{1,2})?(?:[/\\][^\s/\\'\"]+)*[/\\](?=[^\s/\\])", "", text
    )


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _public(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_public(v) for v in value]
    return public_text(value) if isinstance(value, str) else value


# Reading what a stranger wrote.


def read_folder(folder: Path) -> dict[str, Any]:
    """The card of a folder: card.json, which must be what h.safetensors says; a run of `deft fit` has the latter
    alone."""
    weights = _inside(folder, WEIGHTS)
    with weights.open("rb") as f:
        header = int.from_bytes(f.read(8), "little")
    if header > LARGEST_CARD and header < weights.stat().st_size:
        raise CheckpointError(
            f"the header of {weights} has {header:,} bytes, at most {LARGEST_CARD:,} are read: this is no h-transform"
        )
    _, inner = read_h(weights)
    if not (folder / CARD).exists():
        return inner
    outer = _read_json(_inside(folder, CARD), CheckpointError)
    if not isinstance(outer, dict):
        raise CheckpointError(f"{folder / CARD} is no card: expected a table of fields")
    other = differences(plain(inner), outer)
    if other:
        raise CheckpointError(
            f"{folder}: the card in {WEIGHTS} and {CARD} disagree, so one was changed:"
            f" {listed(other[:5], ('in ' + WEIGHTS, 'in ' + CARD))}; take the folder from its source again"
        )
    return inner


def _inside(folder: Path, name: str) -> Path:
    """folder/name, a file whose links, if any, stay in the folder (or in the blobs of a hub's cache)."""
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {name}: give a folder made by `deft hub export` or `deft fit`")
    home = folder.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(path.resolve().is_relative_to(h) for h in homes):
        raise CheckpointError(f"{path} is a link to {path.resolve()}, outside its folder: put the file itself there")
    return path


def _read_json(path: Path, kind: type[InputError] | type[CheckpointError] = InputError) -> Any:
    """Plain JSON of bounded size: no NaN, no name twice in a table."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a name stands twice in one table")
        return out

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        with path.open("rb") as f:
            data = f.read(LARGEST_CARD + 1)
        if len(data) > LARGEST_CARD:
            raise kind(f"{path} is larger than the {LARGEST_CARD:,} bytes that are read: this is no card or report")
        return json.loads(data.decode("utf-8"), object_pairs_hook=table, parse_constant=refuse)
    except kind:
        raise
    except FileNotFoundError as error:
        raise kind(f"no such file: {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise kind(f"{path} is truncated or no plain JSON ({error})") from error


def _read_picture(path: Path) -> Image.Image:
    if not path.is_file():
        raise InputError(f"no such picture: {path}")
    try:
        with reading_picture(path), Image.open(path, formats=formats(PICTURES)) as image:
            check_pixels(image.size, image.mode, path.stat().st_size)
            image.thumbnail((2048, 2048))
            return image.convert("RGB")
    except InputError as error:
        raise InputError(f"{path} is no picture that can be read ({error}): give a PNG or a JPEG") from error


# The hub.


def _find(name: str | Path, revision: str | None, token: str | None, cache_dir: str | Path | None) -> Path:
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{folder} is a file: give the folder it lies in")
    if not HUB_ID.fullmatch(str(name)):
        raise InputError(f"no such folder: {name}; give a folder made by `deft hub export`, or OWNER/NAME of a hub")
    check_repo_id(str(name))
    if revision is not None and (not re.fullmatch(r"\w[\w./-]*", revision) or ".." in revision):
        raise InputError(f"a revision is a branch, a tag or a commit, got {revision!r}")
    hub = _hub()
    try:
        return Path(
            hub.snapshot_download(
                str(name),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                allow_patterns=[WEIGHTS, CARD, README],
                library_name="deft-diffusion",
            )
        )
    except Exception as error:
        raise _hub_error(error, f"cannot fetch {name} from the hub", token) from error


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(INSTALL) from error
    return huggingface_hub


def _hub_error(error: Exception, what: str, token: str | None) -> Exception:
    """One line for what the hub or the network refused; a bug stays a bug. A token is not repeated."""
    source = type(error).__module__.partition(".")[0]
    if source not in ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3") and not isinstance(
        error, OSError
    ):
        return error
    text = " ".join(str(error).split())[:200] or type(error).__name__
    text = text.replace(token, "***") if token else text
    return InputError(f"{what}: {text}; check the name, the network and, where it is needed, the token (hf auth login)")
