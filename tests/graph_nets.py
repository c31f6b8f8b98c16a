"""Tiny exported graphs, as other people's tools write them: x cos(t / 1000), in ONNX by its own text, and a network."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A convolution that is damped as time goes on. width: of two more in front, so that an h has a share of it."""

    def __init__(self, channels: int = 3, outputs: int = 3, width: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        wide = [nn.Conv2d(channels, width, 1), nn.Conv2d(width, width, 3, padding=1)] if width else []
        self.first = nn.Sequential(*wide)
        self.conv = nn.Conv2d(width or channels, outputs, 3, padding=1)
        with torch.no_grad():
            for p in self.conv.parameters():
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv(self.first(x)) * torch.cos(t.to(x.dtype) / 1000).reshape(-1, 1, 1, 1)


def net(**options: int) -> nn.Module:
    return Net(**options).eval().requires_grad_(False)


def onnx_net(path: Path, shape=(3, 8, 8), **options: int) -> Path:
    """The network by PyTorch's older exporter, which is quick; the number of rows is free."""
    axes = {"x": {0: "B"}, "t": {0: "B"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net(**options), (torch.randn(2, *shape), torch.rand(2)), str(path), input_names=["x", "t"],
            output_names=["y"], dynamo=False, dynamic_axes=axes, opset_version=17,
        )  # fmt: skip
    return path


TEXT = """<ir_version: 8, opset_import: ["" : 17]>
graph ({inputs}) => ({output})
<float[4] shape = {{-1, 1, 1, 1}}, float thousand = {{1000}}>
{{
{body}
}}"""
BODY = """  s = Cast<to = 7>(shape)
  f = Cast<to = 1>(t)
  u = Div(f, thousand)
  c = Cos(u)
  o = Cast<to = {number}>(c)
  r = Reshape(o, s)
  y = Mul(x, r)"""


def onnx_text(
    path: Path, inputs: str = "float[B,3,8,8] x, float[B] t", output: str = "float[B,3,8,8] y", kind: str = "float"
) -> Path:
    """x cos(t / 1000) of inputs and an output as ONNX writes them down."""
    import onnx
    import onnx.parser

    number = {"float": 1, "float16": 10, "double": 11}[kind]
    text = TEXT.format(inputs=inputs, output=output, body=BODY.format(number=number))
    onnx.save(onnx.parser.parse_model(text), str(path))
    return path


def scripted(path: Path, shape=(3, 8, 8), **options: int) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net(**options), (torch.randn(2, *shape), torch.rand(2))).save(str(path))
    return path


def program(path: Path, rows: object = "free", shape=(3, 8, 8), **options: int) -> Path:
    """By torch.export; rows: a number, or free."""
    batch = torch.export.Dim("batch", min=1, max=64)
    n = 2 if rows == "free" else int(str(rows))
    shapes = ({0: batch}, {0: batch}) if rows == "free" else None
    made = torch.export.export(net(**options), (torch.randn(n, *shape), torch.rand(n)), dynamic_shapes=shapes)
    torch.export.save(made, path)
    return path


def changed(source: Path, to: Path, member: str, change) -> Path:
    """A zip file with one member changed: bytes -> bytes."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as new:
        names = old.namelist()
        assert sum(n.endswith(member) for n in names) == 1, names
        for name in names:
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith(member) else data)
    return to


def in_json(change):
    """A change of a JSON member: it gets the table, and changes it."""

    def apply(data: bytes) -> bytes:
        table = json.loads(data)
        change(table)
        return json.dumps(table).encode()

    return apply


class Runs:
    """A pickle of this writes a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return (eval, (f"open({self.path!r}, 'w').close()",))


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
