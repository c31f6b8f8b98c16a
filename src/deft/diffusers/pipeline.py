"""`DeftPipeline`: a prior with an h, called as pipelines of diffusers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.likelihood import Observation
from deft.core.sampler import Sampler
from deft.denoiser.identity import is_prior
from deft.diffusers.drawing import TENSOR_INPUTS, draw_latents, seeds_of, watcher
from deft.diffusers.measured import observed, without_prompt
from deft.diffusers.pictures import OUTPUT_TYPES, Picture, as_output
from deft.diffusers.store import read_stored, write_stored
from deft.errors import InputError, unknown
from deft.io.h_files import needed_h
from deft.io.tasks import get_task, make_task
from deft.kinds.domain import domain_of
from deft.kinds.draws import Draws
from deft.learned import kind_of
from deft.methods import Plan, no_gradient, plan
from deft.prior import load_prior
from deft.prior.diffusers import INSTALL
from deft.recipe import FittedH, load
from deft.runtime.compiled import compile_networks
from deft.runtime.precision import at_precision
from deft.samplers.draw import named_domain
from deft.tensors import as_device
from deft.values import Rows, Samples, check, quoted

try:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
except ImportError as error:
    raise InputError(INSTALL) from error

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TRAINING_FREE = "dps"
"""The method of a pipeline without h: it takes every prior, latents too, and every task with a density."""


@dataclass
class DeftPipelineOutput(ImagePipelineOutput):
    """images: as diffusers has them, the pictures of each measurement one after the other. draws: all samples as
    `deft.Draws`, [B, n, C, H, W] in [-1, 1], with mean, deviation and intervals; None for latents, and for a call that
    was interrupted."""

    draws: Draws | None = None


class DeftPipeline(DiffusionPipeline):
    """Samples of p(x | y) from a frozen diffusion model, by the conventions of diffusers: pictures in, pictures out.

    A thin layer: the samples are those of `FittedH.sample` of the same seed, bit for bit (with its batch of 64, or as
    many at once). It is a `DiffusionPipeline`, so that `components`, `progress_bar`, `set_progress_bar_config` and
    callbacks work as elsewhere. Its components are not networks but a `Denoiser`, a `FittedH` and a task; `to`,
    `from_pretrained` and `save_pretrained` are therefore its own, and hooks that move networks one by one (offloading)
    are refused.

    Args:
        prior: what `deft.load_prior` returns, of images.
        h: fitted to it, or None: then training-free methods alone can be used, and the task must be given.
        task: a name, or a task; with h it is that of h.

    Raises:
        InputError: h was fitted to another prior; no images; no such task.

    >>> import torch
    >>> from deft.diffusers import DeftPipeline
    >>> from deft.testing import gaussian_field
    >>> import deft
    >>> net = lambda x, time: 0.5 * x
    >>> prior = deft.NetworkDenoiser(net, deft.VPCosine(), (1, 8, 8), output="v")
    >>> pipe = DeftPipeline(prior, task="inpaint")
    >>> pipe.set_progress_bar_config(disable=True)
    >>> fill = torch.zeros(8, 8)
    >>> fill[2:4, 2:4] = 1  # white: to be filled
    >>> out = pipe(image=torch.rand(1, 8, 8), mask_image=fill, num_inference_steps=4, generator=0)
    >>> out.images[0].size, out.draws.x.shape
    ((8, 8), torch.Size([1, 1, 1, 8, 8]))
    """

    _optional_components = ["h", "task"]  # noqa: RUF012
    _callback_tensor_inputs = list(TENSOR_INPUTS)  # noqa: RUF012
    prior: Denoiser
    h: FittedH | None
    task: Any

    def __init__(self, prior: Denoiser, h: FittedH | None = None, task: Any = None):
        super().__init__()
        if not isinstance(prior, Denoiser):
            raise InputError(f"prior is {quoted(prior)}: expected what deft.load_prior returns")
        if len(prior.data_shape) != 3:
            raise InputError(
                f"this pipeline is for images [C, H, W], and the prior has samples of shape {tuple(prior.data_shape)}:"
                " draw with h.sample(y)"
            )
        if h is not None and not isinstance(h, FittedH):
            raise InputError(f"h is {quoted(h)}: expected a FittedH (deft.fit_h, deft.load) or the folder of one")
        if isinstance(task, str):
            task = get_task(task, domain_of(prior))
        if h is not None:
            h = _of_prior(h, prior)
            if task is not None and task.config() != h.task.config():
                raise InputError(
                    f"h was fitted to {h.task.config()}, and the task given is {task.config()}: leave it out"
                )
            task = h.task
        self.register_modules(prior=prior, h=h, task=task)
        self._interrupt = False
        self._num_timesteps = 0

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        model: str | Path | Denoiser | None = None,
        h: str | Path | FittedH | None = None,
        *,
        task: Any = None,
        torch_dtype: torch.dtype | None = None,
        precision: str | None = None,
        compile: bool = False,
        device: torch.device | str | None = None,
        trust_code: bool = False,
        **prior_options: Any,
    ) -> DeftPipeline:
        """The pipeline of a model and an h.

        Args:
            model: what `deft.load_prior` takes (a folder or hub id of diffusers, ...), a prior, or a folder of
                `save_pretrained`. None: the prior that h names.
            h: a folder of `deft fit` (or `FittedH.save`), a fitted h, or None.
            task: without h, what is measured.
            torch_dtype: of the prior's weights (float32, float16, bfloat16); samples and h stay float32.
            precision: "bf16" or "fp16", in which the networks of prior and h compute; their weights stay as they are
                (`deft.runtime.precision.at_precision`). compile: the same networks by torch.compile
                (`deft.runtime.compiled.compile_networks`).
            device: where it goes. trust_code: of h, as for `deft.load`.
            prior_options: of `deft.load_prior`: label, variant, prompt, ...

        Raises:
            InputError, CheckpointError: as of `deft.load_prior` and `deft.load`.
        """
        if torch_dtype not in (None, *DTYPES):
            raise InputError(f"torch_dtype is {torch_dtype!r}: expected {', '.join(map(str, DTYPES))}")
        where = "cpu" if device is None else as_device(device)
        stored = read_stored(Path(model)) if isinstance(model, (str, Path)) else None
        if stored is not None:
            prior: Denoiser = load_prior(stored.prior, where, **(stored.options | prior_options))
            h = stored.h if h is None else h
            task = make_task(stored.task, domain_of(prior)) if task is None and stored.task else task
        elif isinstance(model, (str, Path)):
            prior = load_prior(model, where, **prior_options)
        elif prior_options:
            raise InputError(f"{next(iter(prior_options))} is an option of a prior that is loaded here: give its name")
        elif isinstance(model, Denoiser):
            prior = model
        elif model is None and h is not None:
            h = h if isinstance(h, FittedH) else load(h, device=where, trust_code=trust_code)
            prior = h.prior
        else:
            raise InputError(f"model is {quoted(model)}: expected a folder, an id or a prior")
        if isinstance(h, (str, Path)):
            h = load(h, prior, trust_code=trust_code)
        pipe = cls(prior, h, task)
        if precision is not None:
            at_precision(prior, precision)
        if precision is not None and h is not None:
            at_precision(h.h, precision)
        for part in (prior, *([] if h is None else [h.h])):
            if compile:
                compile_networks(part)
        return pipe if device is None and torch_dtype is None else pipe.to(device, torch_dtype)

    def save_pretrained(self, folder: str | Path, **unknown_options: Any) -> None:  # type: ignore[override]
        """Write a folder that `from_pretrained` reads: the files of the model as they are, h in h/, and
        deft_pipeline.json with the options of the prior. A folder of diffusers stays one.

        Raises:
            InputError: the prior is of no file (made in Python, a service), or was cast to another precision; the
                folder is in use.
        """
        if unknown_options:
            raise InputError(f"save_pretrained takes a folder alone, got {next(iter(unknown_options))}=")
        if self.dtype not in (torch.float32, torch.float64):
            raise InputError(f"the prior was cast to {self.dtype}: save the pipeline before it is cast")
        write_stored(Path(folder), self.prior, self.h, self.task)

    # where, and in which precision

    def to(self, *args: Any, **named: Any) -> DeftPipeline:
        """As of diffusers: to(device), to(dtype), to(device, dtype). The dtype is that of the prior's weights alone."""
        named.pop("silence_dtype_warnings", None)
        found = {"dtype" if isinstance(v, torch.dtype) else "device": v for v in args if v is not None} | named
        for name in found:
            if name not in ("device", "dtype"):
                raise unknown("argument of to", name, ["device", "dtype"])
        dtype, device = found.get("dtype"), found.get("device")
        if dtype not in (None, *DTYPES):
            raise InputError(f"dtype is {dtype!r}: expected {', '.join(map(str, DTYPES))}")
        if device is not None:
            self.prior.to(as_device(device))
            if self.h is not None:
                self.h.h.to(as_device(device))
        if dtype is not None:
            self.prior.to(dtype)
        return self

    @property
    def device(self) -> torch.device:
        return self.prior.state_like().device

    @property
    def dtype(self) -> torch.dtype:
        """Of the prior's weights."""
        return next((p.dtype for p in self.prior.parameters()), torch.float32)

    def __repr__(self) -> str:
        name = self.prior.loaded_as or type(self.prior).__name__
        about = self.h if self.h is not None else f"no h, task {getattr(self.task, 'name', None)}"
        return f"DeftPipeline({name}, {tuple(self.prior.data_shape)}, {about})"

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback: the call returns the state reached."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    def enable_model_cpu_offload(self, *args: Any, **named: Any) -> None:
        raise InputError(NO_OFFLOADING)

    def enable_sequential_cpu_offload(self, *args: Any, **named: Any) -> None:
        raise InputError(NO_OFFLOADING)

    def enable_group_offload(self, *args: Any, **named: Any) -> None:
        raise InputError(NO_OFFLOADING)

    # drawing

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | Observation | None = None,
        mask_image: Picture | None = None,
        num_inference_steps: int | None = 50,
        num_images_per_prompt: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        num_images: int | None = None,
        method: str | None = None,
        sampler: str | Sampler | None = None,
        spacing: str | None = None,
        settings: Mapping[str, Any] | None = None,
        batch: int | None = None,
        height: int | None = None,
        width: int | None = None,
        **more: Any,
    ) -> DeftPipelineOutput | tuple[Any, ...]:
        """Pictures that the measurement leaves open.

        Args:
            image: what was measured, B of them. For inpainting the picture; for other tasks whose measurement is a
                picture that one (of super-resolution the small one), in [0, 1]; otherwise an array in the task's own
                units; or an `Observation`.
            mask_image: white where the picture is to be filled, as in diffusers (deft's own masks are 1 where seen).
            num_inference_steps: None for the method's own number.
            num_images_per_prompt, num_images: n samples of each measurement; two names of one number, default 1.
            generator: a torch.Generator, a whole number (the seed of `FittedH.sample`), or a list of one for each of
                the B n pictures. None: another seed for each call, of PyTorch's global generator.
            output_type: "pil", "np" [N, H, W, C], "pt" [N, C, H, W], "latent" (the state, not decoded).
            return_dict: False for the tuple (images, draws).
            callback_on_step_end: called (pipe, step from 0, t, tensors) after each step; t is the prior's time.
                `pipe._interrupt = True` ends the call, and it returns the state reached, which still holds noise.
            callback_on_step_end_tensor_inputs: of "latents" and "mean" (E[x_0 | x_t, y]). "latents" of the dictionary
                that it returns replace the state.
            method, sampler, spacing, settings: as of `FittedH.sample` and `deft sample`; default the kind of h, or DPS.
            batch: pictures drawn at once; default all. height, width: may be left out; nothing is resized.
            more: what else the task draws for each measurement (kernel=), and the prompt, which must be the prior's.

        Raises:
            InputError: what was given, what was expected, what to do.
        """
        self._check_call(output_type, callback_on_step_end_tensor_inputs, height, width)
        n = self._images(num_images_per_prompt, num_images)
        obs = observed(self.prior, self.h, self.task, image, mask_image, without_prompt(self.prior, more)).to(
            self.device
        )
        chosen = self._plan(method, sampler, num_inference_steps, spacing, settings)
        if reason := no_gradient(chosen.method, self.prior, obs.likelihood):
            raise InputError(reason)
        total = len(obs) * n
        at_once = total if batch is None else int(check(Rows, batch, "batch"))
        seeds = seeds_of(generator, total)
        whole = needed_h(chosen.method, self.prior, None if self.h is None else self.h.h)
        self._interrupt = False
        if chosen.method.draw is not None:
            if callback_on_step_end is not None or not isinstance(seeds, int) or output_type == "latent":
                raise InputError(
                    f"{chosen.method.title} draws its samples together: it takes no callback_on_step_end, one"
                    " generator, and no output_type='latent'"
                )
            draws = chosen.draw(self.prior, obs, n, fitted=whole, seed=seeds, batch=at_once)
            return self._output(draws, None, output_type, return_dict)
        if callback_on_step_end is not None and at_once < total:
            raise InputError(f"a callback watches all {total} pictures at once: leave batch={batch} out")
        h, own, grid = chosen.make(self.prior, whole)
        if isinstance(sampler, Sampler):
            own, grid = sampler, times(self.prior.schedule, chosen.steps, chosen.spacing)
        self._num_timesteps = len(grid) - 1
        names = getattr(callback_on_step_end, "tensor_inputs", callback_on_step_end_tensor_inputs)
        with self.progress_bar(total=self._num_timesteps * -(-total // at_once)) as bar:
            watched = callback_on_step_end is not None or not bar.disable
            after = watcher(self, callback_on_step_end, names, bar.update) if watched else None
            latents = draw_latents(self.prior, h, obs, n, seeds, sampler=own, grid=grid, batch=at_once, callback=after)
        if output_type == "latent":
            return self._output(None, latents, output_type, return_dict)
        x = self.prior.decode(latents).reshape(len(obs), n, *self.prior.data_shape)
        checked = None if self.h is None or isinstance(sampler, Sampler) else self.h.checked_intervals
        factors = checked.factors if checked is not None and checked.applies(chosen) else None
        return self._output(Draws(x, domain=named_domain(self.prior), factors=factors), None, output_type, return_dict)

    def _output(
        self, draws: Draws | None, latents: Tensor | None, output_type: str, return_dict: bool
    ) -> DeftPipelineOutput | tuple[Any, ...]:
        images: Any = latents if draws is None else as_output(draws.x.flatten(0, 1), output_type)
        draws = None if self.interrupt else draws
        return DeftPipelineOutput(images=images, draws=draws) if return_dict else (images, draws)

    def _check_call(self, output_type: str, names: Sequence[str], height: int | None, width: int | None) -> None:
        if output_type not in OUTPUT_TYPES:
            raise unknown("output_type", str(output_type), OUTPUT_TYPES)
        for name in names:
            if name not in TENSOR_INPUTS:
                raise unknown("tensor input of a callback", str(name), TENSOR_INPUTS)
        for name, given, own in zip(("height", "width"), (height, width), self.prior.data_shape[1:], strict=True):
            if given is not None and given != own:
                raise InputError(f"{name} is {given}, and the prior's images have {own}: leave it out")

    def _images(self, one: int | None, other: int | None) -> int:
        if one is not None and other is not None and one != other:
            raise InputError(f"num_images_per_prompt is {one} and num_images {other}: they are the same, give one")
        n = one if one is not None else other
        return 1 if n is None else int(check(Samples, n, "num_images" if one is None else "num_images_per_prompt"))

    def _plan(
        self,
        method: str | None,
        sampler: str | Sampler | None,
        steps: int | None,
        spacing: str | None,
        settings: Mapping[str, Any] | None,
    ) -> Plan:
        own = TRAINING_FREE if self.h is None else kind_of(self.h.h)
        name = None if isinstance(sampler, Sampler) else sampler
        task = None if method in (None, own) and self.h is not None else getattr(self.task, "name", None)
        return plan(method or own, task, settings=settings, sampler=name, steps=steps, spacing=spacing)


NO_OFFLOADING = (
    "this pipeline moves as a whole: pipe.to('cuda'); where memory is short, give torch_dtype=torch.float16 or a"
    " smaller batch="
)


def _of_prior(h: FittedH, prior: Denoiser) -> FittedH:
    """h with this very object as its prior; from here on also where its weights are rounded (`to`)."""
    if h.prior is prior:
        return h
    own = h.h.prior_sha256 or h.prior.fingerprint()
    if not is_prior(prior, own):
        raise InputError(f"h was fitted to another prior ({h.prior.loaded_as or 'unnamed'}): give that one")
    h.h.belongs_to(prior, h.task, own)
    return replace(h, prior=prior)
