"""Pictures of every task, as in docs/tasks.md: images, and what is measured of them, as a picture.

python examples/task_pictures.py docs/images
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from deft import Noise
from deft.domains.image.data import dataset
from deft.domains.image.tasks import TASKS, get_task
from deft.domains.image.writing import Column, picture_grid, picture_of, save_image, to_pixels


def main(out: Path) -> None:
    for data, n in (("fashion", 4), ("ct", 3)):
        x = dataset(data, "test").x[:n]
        columns = [Column("image", to_pixels(x))]
        for name in TASKS:
            task = get_task(name)
            if task.prior != data and not (data == "ct" and name == "mri"):
                continue
            shown = x
            if name == "colourise":  # there are no colours in clothes of Fashion-MNIST: give them some
                shown = torch.cat([x, 0.6 * x - 0.3, -0.2 * x - 0.4], 1)
            obs = task.observe(shown, Noise(0, n))
            columns.append(Column(name, picture_of(obs, shown.shape[1:]), "x".join(map(str, obs.y.shape[1:]))))
        rows = [columns[:8], [columns[0], *columns[8:15]], [columns[0], *columns[15:]]]
        for i, part in enumerate(r for r in rows if len(r) > 1):
            save_image(out / f"tasks-{data}-{i + 1}.png", picture_grid(part, cell=96))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
