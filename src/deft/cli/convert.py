"""deft measure convert"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import click

from deft.cli import common
from deft.cli.common import Name, Output, json_option, make_task, task_option_option
from deft.cli.numbers import Number, Numbers, Pixels, Real
from deft.errors import InputError
from deft.io.arrays import read_array
from deft.io.folders import own_file
from deft.io.measurements import Converted
from deft.io.settings import read_angles, switch
from deft.kinds.domain import Table
from deft.operator.recast import NORMS, ORIGINS
from deft.values import Deviation, Positive, Range

K_SPACE = (
    "mask",
    "maps",
    "centred",
    "norm",
    "origin",
    "sign",
    "layout",
    "orientation",
    "magnitude",
    "crop",
    "value_scale",
)
PROGRAMS = Table(lambda domain: domain.converters())
"""Program -> what reads its measurements, of every kind of data."""
OPTIONS: dict[str, tuple[str, ...]] = {
    "fastmri": (*K_SPACE, "rows"),
    "sigpy": (*K_SPACE, "rows"),
    "skimage": ("theta", "circle", "own_side", "side", "value_scale", "value_range", "rows"),
    "odl": ("extent", "own_side", "side", "detector_extent", "every", "value_scale", "value_range", "rows"),
    "lodopab": ("side", "every", "value_scale", "rows"),
    "rays": ("side", "task_options", "rows"),
}
"""Which options each program's measurements have."""
KEYS = {
    "fastmri": ("kspace",), "sigpy": ("kspace", "ksp", "y"), "skimage": ("sinogram", "y"), "odl": ("sinogram", "y"),
    "lodopab": ("data",), "rays": ("y",),
}  # fmt: skip
SPELLING = {"value_scale": "--scale", "value_range": "--range", "task_options": "--task-option"}


def _yes_no(ctx: click.Context, param: click.Parameter, value: str | None) -> bool | None:
    return None if value is None else switch(str(param.opts[0]), value) == "true"


@click.command()
@click.argument("program", type=Name("program", PROGRAMS))
@click.argument("file", type=common.FilePath())
@click.option("--out", type=common.FilePath(), default="measurement.npz", show_default=True, help="The file to write.")
@click.option("--rows", metavar="FIRST:LAST", help="Slices FIRST to LAST - 1 of the file.  [default: all]")
@click.option(
    "--sigma-y",
    type=Number(Deviation),
    help="Deviation of the noise in the converted y.  [default: the task's]",
)
@click.option("--scale", "value_scale", type=Number(Real), help="Multiply the program's values by this first.")
@click.option(
    "--mask",
    type=common.FilePath(),
    help="k-space: 1 sampled, 0 not: [W] columns, or [H, W].  [default: where it is not 0]",
)
@click.option(
    "--maps",
    type=common.FilePath(),
    help="k-space: complex sensitivities [coils, H, W]; for one coil exp(i phase) of the image.",
)
@click.option(
    "--centred", callback=_yes_no, metavar="true|false", help="k-space: zero frequency in the middle.  [default: true]"
)
@click.option(
    "--norm", type=Name("norm", NORMS), help="k-space: ortho, backward (plain sums) or forward.  [default: ortho]"
)
@click.option(
    "--origin", type=Name("origin", ORIGINS), help="k-space: the pixel of phase 0, middle or corner.  [default: middle]"
)
@click.option("--sign", type=Number(Annotated[int, Range(-1, 1)]), help="k-space: sign of the exponent.  [default: -1]")
@click.option(
    "--layout",
    type=Name("layout", ("auto", "complex", "last", "channels")),
    help="k-space of real numbers: where the axis of 2 is.",
)
@click.option(
    "--orientation",
    multiple=True,
    type=Name("orientation", ("flip-rows", "flip-columns", "transpose")),
    help="Flip or transpose the image. May be repeated.",
)
@click.option(
    "--magnitude",
    is_flag=True,
    default=None,
    help="k-space, fully sampled: simulate a measurement of the magnitude of the image.",
)
@click.option(
    "--crop", type=Number(Pixels), help="With --magnitude: use the middle of the image, this many pixels wide."
)
@click.option(
    "--theta",
    help="skimage: the angles given to radon, in degrees: a file, or numbers with commas.  [default: 0 to 179]",
)
@click.option("--circle", callback=_yes_no, metavar="true|false", help="skimage: as given to radon.  [default: true]")
@click.option("--extent", type=Number(Positive), help="odl: side of the domain, in its units.")
@click.option(
    "--detector-extent", type=Number(Positive), help="odl: of the row of detectors.  [default: the domain's diagonal]"
)
@click.option(
    "--every", type=Number(Pixels), help="odl, lodopab: keep every N-th angle, N being this number.  [default: 1]"
)
@click.option(
    "--own-side", type=Number(Pixels), help="skimage, odl: pixels along a side of the image that was measured."
)
@click.option(
    "--side",
    type=Number(Pixels),
    help="Pixels along a side of the images to be made (the prior's).  [default: those that were measured]",
)
@click.option(
    "--range",
    "value_range",
    type=Numbers(Real, 2, 2),
    help="Black and white of the images that were measured.  [default: 0,1]",
)
@task_option_option
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@json_option
def convert(program: str, file: Path, out: Path, overwrite: bool, as_json: bool, **given: Any) -> None:
    """Convert a measurement of another program to a measurement file.

    \b
    fastmri  HDF5 with kspace; one coil, or --maps       odl      sinograms [angles, detectors]
    sigpy    complex arrays, centred, orthonormal        lodopab  HDF5 with data [N, 1000, 513]
    skimage  sinograms [detectors, angles] of radon      rays     y of the task ct with NaN

    \b
    deft measure convert skimage sinogram.npy --theta 0,3,6,9 --out y.npz
    deft sample --prior ct --method diffpir --measurement y.npz --out slice

    Assumptions are printed and kept in the file. docs/conventions.md has the conventions.
    """
    output = Output(as_json)
    if out.suffix != ".npz":
        raise InputError(f"--out must end in .npz, got {out}")
    sigma_y = given.pop("sigma_y")
    asked = {k: v for k, v in given.items() if v is not None and v != ()}
    useless = [SPELLING.get(k, f"--{k.replace('_', '-')}") for k in asked if k not in OPTIONS.get(program, ())]
    if useless:
        raise InputError(f"{', '.join(useless)} does nothing for {program}: leave it out")
    with own_file(out, "convert", overwrite=overwrite):
        array = _rows(read_array(file, KEYS.get(program, ("y",))), asked.pop("rows", None))
        made = _convert(program, array, asked, sigma_y)
        made.save(out)
    for note in made.notes:
        output.say(note)
    output.say(
        f"{len(made.y)} measurements of the task {made.task.name}, shape {tuple(made.y.shape[1:])}, noise "
        f"{made.task.sigma_y:g}; wrote {out}"
    )
    output.result(
        {
            "out": str(out),
            "task": made.task.config(),
            "n": len(made.y),
            "shape": list(made.y.shape[1:]),
            "scale": made.scale,
            "notes": made.notes,
        }
    )


def _convert(program: str, array: Any, asked: dict[str, Any], sigma_y: float | None) -> Converted:
    if "value_range" in asked and len(asked["value_range"]) != 2:
        raise InputError(f"--range takes black and white, two numbers, got {len(asked['value_range'])}")
    if "value_scale" in asked:
        asked["scale"] = asked.pop("value_scale")
    if program in ("fastmri", "sigpy"):
        for key in ("mask", "maps"):
            if key in asked:
                asked[key] = read_array(asked[key], (key, "mask" if key == "mask" else "sensitivities"))
        return PROGRAMS[program](array, sigma_y=sigma_y, **asked)
    if program == "skimage":
        if "theta" in asked:
            text = asked.pop("theta")
            asked["theta"] = read_angles(text, "degrees") if os.path.isfile(text) else _degrees(text)
        return PROGRAMS[program](array, sigma_y=sigma_y, **asked)
    if program == "odl":
        for key, what in (("extent", "the side of the domain"), ("own_side", "its pixels")):
            if key not in asked:
                raise InputError(
                    f"odl needs --{key.replace('_', '-')}, {what}: 128 and 128 for uniform_discr([-64, -64], [64, "
                    "64], (128, 128))"
                )
        return PROGRAMS[program](array, sigma_y=sigma_y, **asked)
    if program == "lodopab":
        return PROGRAMS[program](array, sigma_y=sigma_y, **asked)
    if program != "rays":
        return PROGRAMS[program](array, sigma_y=sigma_y, **asked)
    return PROGRAMS[program](array, make_task("ct", sigma_y, None, asked.pop("task_options", ())), asked.get("side"))


def _degrees(text: str) -> list[float]:
    try:
        return [float(v) for v in text.split(",")]
    except ValueError:
        raise InputError(
            f"--theta is a file of degrees, or numbers with commas between them; got {text!r}, which is neither"
        ) from None


def _rows(array: Any, rows: str | None) -> Any:
    """Slices FIRST to LAST - 1."""
    if rows is None:
        return array
    first, colon, last = rows.partition(":")
    try:
        start, stop = int(first or 0), int(last) if last else (len(array) if colon else int(first) + 1)
    except ValueError:
        raise InputError(f"--rows takes FIRST:LAST, got {rows!r}") from None
    if array.ndim < 3:
        raise InputError(f"--rows {rows}: the array has shape {array.shape}, one measurement: leave --rows out")
    if not 0 <= start < stop <= len(array):
        raise InputError(f"--rows {rows}: there are {len(array)}, give 0 to {len(array)}")
    return array[start:stop]
