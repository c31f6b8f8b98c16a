"""From a text to embeddings: the tokenizers and text encoders of a pipeline of diffusers, each used as its pipeline
does. Once the embeddings are there, no text encoder is kept.

An encoder runs on the CPU in float32. A text of None is the one that stands for no text: what the pipeline itself takes
for the side of guidance without a prompt.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deft.errors import CheckpointError, InputError
from deft.prior.embeddings import Embedded, Embeddings
from deft.prior.families import TEXT_FAMILIES, Config, class_name, title_of
from deft.prior.lora import merge_text
from deft.prior.parts import config_of
from deft.prior.weights import MAX_TENSORS, check_complete, check_files
from deft.runtime.untrusted import building, held
from deft.values import quoted

INSTALL = "a prompt needs transformers: pip install 'deft-diffusion[diffusers]'; or give --embeddings"

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "Gemma2Model")
TOKENIZERS = (
    "CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast",
)  # fmt: skip
"""Classes of transformers that a pipeline's files may name; no code of theirs is run."""

FIRST = 64
"""Numbers of each tensor of a text encoder that stand for it in its fingerprint."""


class Home(NamedTuple):
    """Where a pipeline's text encoders lie: its folder, its model_index.json, the config of its network. states:
    weights of encoders from a file elsewhere, by the names of their folders."""

    folder: Path
    parts: Mapping[str, Any]
    config: Config
    variant: str | None = None
    lora: Path | None = None
    lora_scale: float = 1.0
    states: Mapping[str, Mapping[str, Tensor]] = {}


def home_of(folder: Path, config: Config, variant: str | None = None, **lora: Any) -> Home:
    """Of a pipeline's folder, or of the folder of its network beside which the others lie."""
    own = (folder / "model_index.json").is_file() or any(folder.glob("tokenizer*")) or any(folder.glob("text_encoder*"))
    where = folder if own else folder.parent
    return Home(where, config_of(where / "model_index.json"), config, variant, **lora)


def embed(home: Home, prompt: str = "", negative: str = "") -> Embeddings:
    """The embeddings of a prompt, and of the text that guidance leads away from (by default: no text).

    Raises:
        InputError: transformers is missing, or a part of the pipeline that a text needs.
        CheckpointError: such a part is damaged.
    """
    kind = class_name(home.config)
    recipe = RECIPES["XL" if title_of(home.config).endswith("XL") else kind]
    made: dict[tuple[str, bool], Embedded] = {}
    with Encoders(home) as encoders:
        for text, positive in ((prompt, bool(prompt)), (negative, False)):
            if (text, positive) not in made:
                encoders.forget()
                with torch.no_grad():
                    tensors = recipe(encoders, text, positive)
                tensors = {k: v.detach().cpu() for k, v in tensors.items()}
                made[text, positive] = Embedded(tensors, encoders.sha256(), text, tuple(encoders.notes))
        more = encoders.merged
    first = made[prompt, bool(prompt)]
    first = Embedded(first.tensors, first.sha256, first.text, (*first.notes, *more))
    return Embeddings(first, made[negative, False], title_of(home.config))


class Out(NamedTuple):
    """Of an encoder: its last state, its last but one, the pooled one (None where it has none), the mask of tokens."""

    last: Tensor
    before: Tensor
    pooled: Tensor | None
    mask: Tensor


class Encoders:
    """The encoders of a pipeline, each loaded when it is first asked, by the ending of its folder's name."""

    def __init__(self, home: Home):
        self.home, self.made = home, dict[str, tuple[Any, nn.Module, str]]()
        self.notes, self.merged, self.trace = list[str](), list[str](), list[Any]()

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, *error: object) -> None:
        self.made.clear()

    def forget(self) -> None:
        self.notes, self.trace = [], []

    def sha256(self) -> str:
        """Of what was encoded: each encoder, and the tokens that it was given."""
        return hashlib.sha256(json.dumps(self.trace, sort_keys=True).encode()).hexdigest()

    def has(self, ending: str) -> bool:
        """Whether the pipeline has such an encoder: not one that its index says is left out."""
        stated = self.home.parts.get(f"text_encoder{ending}", "")
        if isinstance(stated, (list, tuple)):
            return None not in stated[:1]
        return (self.home.folder / f"text_encoder{ending}").is_dir()

    def load(self, ending: str) -> tuple[Any, nn.Module, str]:
        if ending not in self.made:
            words = load_tokenizer(self.home, f"tokenizer{ending}")
            encoder = load_encoder(self.home, f"text_encoder{ending}")
            if self.home.lora is not None:
                self.merged += merge_text(encoder, ending, self.home.lora, self.home.lora_scale)
            self.made[ending] = (words, encoder, sample_of(encoder))
        return self.made[ending]

    def __call__(
        self, ending: str, text: str, length: int | None = None, masked: bool = False, before: str = ""
    ) -> Out:
        """A text through an encoder.

        length: tokens, filled up and cut; None: as many as the tokenizer says. masked: show the encoder which tokens
            are filled in. before: what stands before the text, not counted in `length`.
        """
        with quiet():
            return self.ask(ending, text, length, masked, before)

    def ask(self, ending: str, text: str, length: int | None, masked: bool, before: str) -> Out:
        words, encoder, own = self.load(ending)
        config = encoder.config
        if length is None:
            length = min(words.model_max_length, getattr(config, "max_position_embeddings", None) or 77)
        if before:
            length += len(words.encode(before)) - 2
        found = words(before + text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        whole = words(before + text, padding="longest", return_tensors="pt").input_ids
        if whole.shape[-1] > length:
            left = words.decode(whole[0, length - 1 : -1])
            self.notes.append(f"prompt: text_encoder{ending} takes {length} tokens; left out: {quoted(str(left))}")
        masked = masked or bool(getattr(config, "use_attention_mask", False))
        ids, mask = found.input_ids, found.attention_mask
        self.trace.append([type(encoder).__name__, own, ids[0].tolist(), masked])
        out = encoder(input_ids=ids, output_hidden_states=True, **({"attention_mask": mask} if masked else {}))
        pooled = getattr(out, "text_embeds", None)
        pooled = getattr(out, "pooler_output", None) if pooled is None else pooled
        return Out(out.last_hidden_state, out.hidden_states[-2], pooled, mask)


def _stable_diffusion(encoders: Encoders, text: str, positive: bool) -> dict[str, Tensor]:
    return {"prompt_embeds": encoders("", text).last}


def _xl(encoders: Encoders, text: str, positive: bool) -> dict[str, Tensor]:
    """Both encoders' last state but one; the second's pooled one. No text: zeros, if the pipeline says so."""
    outs = [encoders(k, text) for k in ("", "_2") if encoders.has(k) or k == "_2"]
    found = {"prompt_embeds": torch.cat([o.before for o in outs], -1), "pooled_prompt_embeds": _pooled(outs[-1])}
    if text == "" and not positive and encoders.home.parts.get("force_zeros_for_empty_prompt", True):
        encoders.trace.append("zeros")
        return {k: torch.zeros_like(v) for k, v in found.items()}
    return found


def _sd3(encoders: Encoders, text: str, positive: bool) -> dict[str, Tensor]:
    """Two of CLIP side by side, filled up with zeros to T5's width, and T5 after them; zeros in T5's place, if the
    pipeline is kept without it."""
    outs = [encoders(k, text) for k in ("", "_2")]
    clip, width = torch.cat([o.before for o in outs], -1), int(encoders.home.config.get("joint_attention_dim", 4096))
    if encoders.has("_3"):
        last = encoders("_3", text, 256).last
    else:
        last = torch.zeros(1, 256, width)
        encoders.notes.append("text_encoder_3: the pipeline has none; zeros stand for it, as in diffusers")
    clip = nn.functional.pad(clip, (0, last.shape[-1] - clip.shape[-1]))
    pooled = torch.cat([_pooled(o) for o in outs], -1)
    return {"prompt_embeds": torch.cat([clip, last], 1), "pooled_prompt_embeds": pooled}


def _flux(encoders: Encoders, text: str, positive: bool) -> dict[str, Tensor]:
    return {"prompt_embeds": encoders("_2", text, 512).last, "pooled_prompt_embeds": _pooled(encoders("", text))}


def _pixart(encoders: Encoders, text: str, positive: bool) -> dict[str, Tensor]:
    length = 300 if "Sigma" in str(encoders.home.parts.get("_class_name")) else 120
    out = encoders("", text.lower().strip(), length, masked=True)
    return {"prompt_embeds": out.last, "prompt_attention_mask": out.mask}


def _sana(encoders: Encoders, text: str, positive: bool) -> dict[str, Tensor]:
    """The prompt, not the negative one, after the instruction of the pipeline; of all tokens the first and the last
    299."""
    words = encoders.load("")[0]
    words.padding_side = "right"
    before = instruction() if positive else ""
    out = encoders("", text.lower().strip(), 300, masked=True, before=before)
    kept = [0, *range(-299, 0)] if positive else slice(None)
    return {"prompt_embeds": out.last[:, kept], "prompt_attention_mask": out.mask[:, kept]}


def instruction() -> str:
    """What Sana's pipeline puts before a prompt."""
    from diffusers import SanaPipeline

    found = inspect.signature(SanaPipeline.__call__).parameters.get("complex_human_instruction")
    return "\n".join(found.default) if found is not None and isinstance(found.default, (list, tuple)) else ""


def _pooled(out: Out) -> Tensor:
    if out.pooled is None:
        raise CheckpointError("a text encoder returns no pooled state: expected one of CLIP, with a projection")
    return out.pooled


Recipe = Callable[[Encoders, str, bool], dict[str, Tensor]]
RECIPES: dict[str, Recipe] = {
    "UNet2DConditionModel": _stable_diffusion,
    "XL": _xl,
    "PixArtTransformer2DModel": _pixart,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
    "SanaTransformer2DModel": _sana,
}
"""Class of the network -> how its pipeline makes embeddings of a text."""
assert {*TEXT_FAMILIES} == {*RECIPES} - {"XL"}


def sample_of(encoder: nn.Module) -> str:
    """A fingerprint of a text encoder that costs nothing: names, shapes and the first numbers of its tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        if value.is_floating_point():
            first = value.detach().flatten()[:FIRST].float().contiguous()
            digest.update(f"{name.removeprefix('text_model.')}{tuple(value.shape)}".encode() + first.numpy().tobytes())
    return digest.hexdigest()


def load_tokenizer(home: Home, part: str) -> Any:
    """A tokenizer of a pipeline."""
    folder = folder_of(home, part)
    kind = _named(home, part, TOKENIZERS, str(config_of(folder / "tokenizer_config.json").get("tokenizer_class")))
    try:
        with quiet():
            return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # of transformers, given whatever the files say
        alone = (folder / "spiece.model").is_file() and not (folder / "tokenizer.json").is_file()
        more = ": spiece.model needs `pip install sentencepiece protobuf`, tokenizer.json does not" if alone else ""
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be read ({_first_of(error)}){more}; or give --embeddings"
        ) from error


def load_encoder(home: Home, part: str) -> nn.Module:
    """A text encoder of a pipeline, in float32, its weights read as plain tensors."""
    folder = folder_of(home, part)
    stated = config_of(folder / "config.json").get("architectures")
    kind = _named(home, part, ENCODERS, str(stated[0]) if isinstance(stated, list) and stated else "")
    if part in home.states:
        return encoder_of_state(folder, kind, home.states[part])
    check_complete(folder)
    variant = home.variant if home.variant and any(f".{home.variant}" in p.name for p in folder.iterdir()) else None
    safe = any(p.suffix == ".safetensors" for p in folder.iterdir())
    try:
        size = check_files(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
        with quiet(), building(MAX_TENSORS, size):
            made, info = kind.from_pretrained(
                str(folder), variant=variant, local_files_only=True, use_safetensors=safe, torch_dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:
        raise CheckpointError(
            f"{folder}: the text encoder cannot be loaded ({_first_of(error)}); or give --embeddings"
        ) from error
    missing = sorted(map(str, info.get("missing_keys") or ()))
    if missing:
        raise CheckpointError(
            f"{folder}: the weights do not fit the config: missing keys: {len(missing)} ({missing[0]} ...)"
        )
    found: nn.Module = made.eval().requires_grad_(False)
    return found


def encoder_of_state(folder: Path, kind: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The text encoder that a folder's config.json describes, with weights from elsewhere."""
    try:
        with quiet(), building(*held(tensors)):
            made: nn.Module = kind(kind.config_class.from_json_file(str(folder / "config.json")))
    except Exception as error:
        raise CheckpointError(f"{folder}/config.json describes no text encoder ({_first_of(error)})") from error
    own = made.state_dict()
    prefix = "text_model." if any(k.startswith("text_model.") for k in own) else ""
    named = {prefix + k.removeprefix("text_model."): v for k, v in tensors.items() if not k.endswith("position_ids")}
    wrong = sorted(k for k in {*own, *named} if k not in own or k not in named or own[k].shape != named[k].shape)
    if wrong:
        raise CheckpointError(
            f"{folder}/config.json is of another text encoder: {wrong[0]} differs ({len(wrong)} in all)"
        )
    made.load_state_dict(named)
    return made.float().eval().requires_grad_(False)


def folder_of(home: Home, part: str) -> Path:
    folder = home.folder / part
    if not folder.is_dir():
        raise InputError(
            f"{home.folder} holds a text-conditional model, which wants more than x_t and t (a text), and no {part}/:"
            " give the folder of the whole pipeline; or --embeddings FILE, made by `deft prior embed` where its text"
            " encoders are"
        )
    return folder


def _named(home: Home, part: str, known: tuple[str, ...], otherwise: str) -> Any:
    """The class of transformers that the index, or the part's own file, names."""
    try:
        import transformers
    except ImportError as error:
        raise InputError(INSTALL) from error
    stated = home.parts.get(part)
    name = str(stated[1]) if isinstance(stated, (list, tuple)) and len(stated) == 2 else otherwise
    if name not in known or not hasattr(transformers, name):
        raise InputError(
            f"{home.folder}/{part} is a {quoted(name)}; read are {', '.join(known)}: give --embeddings, made with"
            " diffusers"
        )
    return getattr(transformers, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers neither warns nor draws bars."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _first_of(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
