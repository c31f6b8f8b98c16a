from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from deft.errors import InputError
from deft.kinds.domain import Data, Domain, Metric


class CurveDomain(Domain):
    """Curves [2, L], one sample a CSV file of L rows."""

    name = "curve"
    title = "curves"

    def owns(self, event_shape):
        return len(event_shape) == 2 and event_shape[0] == 2

    def tasks(self):
        from curves.tasks import Gaps

        return {Gaps.name: Gaps}

    def network(self, event_shape, inputs, outputs, width):
        from curves.nets import CurveNet

        return CurveNet(inputs, outputs, width)

    def new_prior(self, event_shape, schedule, output):
        from curves.nets import CurveNet, CurvePrior

        return CurvePrior(CurveNet(2, 2, 16), schedule, event_shape, output)

    def own_priors(self):
        from curves.nets import CurvePrior

        return {"CurveNet": CurvePrior}

    def read(self, source, event_shape=None, *, split="fit"):
        from pathlib import Path

        files = sorted(Path(source).glob("*.csv"))
        if not files:
            raise InputError(f"{source} holds no .csv: give a folder of curves, one a file")
        x = torch.stack([torch.from_numpy(np.loadtxt(f, delimiter=",", dtype=np.float32).T) for f in files])
        return Data(x, [f.stem for f in files])

    def write(self, folder, name, x):
        path = folder / f"{name}.csv"
        np.savetxt(path, x.numpy().T, delimiter=",")
        return [path]

    def picture(self, x, titles=(), title=""):
        level = ((x.flatten(0, 1) - x.min()) / (x.max() - x.min()) * 255).byte().numpy()
        data = io.BytesIO()
        Image.fromarray(level).save(data, format="PNG")
        return data.getvalue()

    def metrics(self):
        return {"gap": Metric("gap", "error in the gap", "low")}

    def measure(self, samples, truth, obs):
        hidden = 1 - obs.likelihood.operator.mask
        return {"gap": ((samples - truth[:, None]) * hidden[:, None]).square().mean((1, 2, 3)).sqrt()}
