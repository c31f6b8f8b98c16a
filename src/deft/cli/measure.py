"""deft measure"""

from __future__ import annotations

from pathlib import Path

import click

from deft.cli import common
from deft.cli.common import DATA_HELP, Name, Output, json_option
from deft.errors import InputError
from deft.evaluate.report import picture_of
from deft.images import Column, Reading, picture_grid, save_image, to_pixels
from deft.measurement import save_measurement
from deft.random import Noise
from deft.tasks import TASKS


@click.command()
@click.option("--task", type=Name("task", TASKS), required=True)
@common.task_option_option
@click.option("--sigma-y", type=float, help="Deviation of the noise.  [default: the task's]")
@click.option("--data", required=True, help=DATA_HELP)
@click.option("--images", type=int, help="Measure the first so many images.  [default: all]")
@click.option("--seed", default=0, show_default=True, help="Of masks, kernels and noise.")
@click.option("--out", type=click.Path(path_type=Path), default="measurement.npz", show_default=True, help="The file to write; a picture goes beside it.")
@common.reading_options
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@json_option
def measure(
    task: str, task_options: tuple[str, ...], sigma_y: float | None, data: str, images: int | None, seed: int, out: Path, skip_bad: bool,
    resize: bool, convert: bool, value_range: str | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure images as a task does: y, with the mask or kernel it was made with, in a file for `deft sample`.

    \b
    deft measure --task ct --data ct:test --images 4 --out scans.npz
    deft sample --prior ct --method diffpir --measurement scans.npz --row 2 --out slice
    """
    output = Output(as_json)
    if out.suffix != ".npz":
        raise InputError(f"--out must end in .npz, got {out}")
    if out.exists() and not overwrite:
        raise InputError(f"{out} is there already: give another --out, or --overwrite")
    chosen = common.make_task(task, sigma_y, None, task_options)
    x = common.load_images(data, "test", Reading(None, skip_bad, resize, convert, value_range), output.say).x
    if images is not None and not 1 <= images <= len(x):
        raise InputError(f"--images {images}: there are {len(x)}, give 1 to {len(x)}")
    x = x[:images]
    chosen.check(x.shape[1:])
    obs = chosen.observe(x, Noise(seed, len(x)))
    save_measurement(out, obs, chosen, truth=x)
    picture = out.with_suffix(".png")
    shown = obs[:10]
    columns = [Column("image", to_pixels(x[:10])), Column("measured", picture_of(shown, x.shape[1:]), "as a picture")]
    save_image(picture, picture_grid(columns, title=f"{chosen.title}, noise {chosen.sigma_y:g}"))
    output.say(f"{len(x)} measurements of shape {tuple(obs.y.shape[1:])}; wrote {out}, {picture}")
    output.result({"out": str(out), "picture": str(picture), "task": chosen.config(), "n": len(x), "shape": list(obs.y.shape[1:])})
