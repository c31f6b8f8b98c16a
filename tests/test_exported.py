"""Priors that are exported graphs: the same numbers as the network itself, whatever rows, times and numbers the graph
takes; what of a file is code is refused; and what is wrong is one line."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

import deft
from deft.errors import CheckpointError, InputError
from deft.io import graph_files
from deft.methods import METHODS, forward_only
from deft.prior import load_prior, wrap
from deft.prior.graphs import OnnxGraph
from graph_nets import Runs, changed, in_json, net, onnx_net, onnx_text, pickled, program, scripted
from toys import refused, run

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SHAPE = (3, 8, 8)
X = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.0, 999.0, 300.0, 300.0, 41.0])
MAKE = {"net.onnx": onnx_net, "net.pt2": program, "net.pt": scripted}
SHAPED = {"net.pt": {"event_shape": SHAPE}}


def close(a, b, tolerance=1e-5):
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    home = tmp_path_factory.mktemp("graphs")
    return {name: make(home / name) for name, make in MAKE.items()}


@pytest.fixture
def prior(files):
    return load_prior(files["net.onnx"], convention="ddpm")


@pytest.mark.parametrize("name", MAKE)
def test_a_graph_is_the_network(name, files):
    """E[x_0 | x_t] for 1, 2 and 5 rows of different times, and samples, are those of the network itself; so are those
    of copies and pickles."""
    prior, own = load_prior(files[name], convention="ddpm", **SHAPED.get(name, {})), wrap(net(), SHAPE, "ddpm")
    for n in (1, 2, 5):
        assert close(prior(X[:n], T[:n]).mean, own(X[:n], T[:n]).mean)
    assert close(prior(X, T[0]).mean, own(X, T[0]).mean)
    assert close(deft.sample(prior, 3, steps=4), deft.sample(own, 3, steps=4))
    assert prior.parameter_count() == own.parameter_count() == 84
    assert prior.differentiable == (name != "net.onnx") == ("derivative" not in prior.card)
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        assert other.fingerprint() == prior.fingerprint() and torch.equal(other(X, T).mean, prior(X, T).mean)


def test_the_convention_is_the_users(files):
    """Another convention is another mean, and another prior."""
    one, other = (load_prior(files["net.onnx"], convention="ddpm", output=output) for output in ("eps", "x0"))
    assert close(other(X, T).mean, net()(X, T)) and not close(one(X, T).mean, other(X, T).mean)
    assert one.fingerprint() != other.fingerprint()


def test_the_fingerprint_is_of_file_and_convention(files, tmp_path):
    first = load_prior(files["net.onnx"], convention="ddpm").fingerprint()
    assert (
        load_prior(files["net.onnx"], convention="ddpm", batch=2, providers=("CPUExecutionProvider",)).fingerprint()
        == first
    )
    data = bytearray(files["net.onnx"].read_bytes())
    place = data.find(net().conv.bias.numpy().tobytes())
    assert place > 0
    data[place] ^= 1
    (tmp_path / "net.onnx").write_bytes(data)
    assert load_prior(tmp_path / "net.onnx", convention="ddpm").fingerprint() != first


GRAPHS = {
    "free": ("float[B,3,8,8] x, float[B] t", "float[B,3,8,8] y", "float"),
    "the time first": ("float[B] t, float[B,3,8,8] x", "float[B,3,8,8] y", "float"),
    "one row": ("float[1,3,8,8] x, float[1] t", "float[1,3,8,8] y", "float"),
    "four rows": ("float[4,3,8,8] x, float[4] t", "float[4,3,8,8] y", "float"),
    "a scalar time": ("float[B,3,8,8] x, float t", "float[B,3,8,8] y", "float"),
    "a time for all": ("float[B,3,8,8] x, float[1] t", "float[B,3,8,8] y", "float"),
    "four rows, one time": ("float[4,3,8,8] x, float[1] t", "float[4,3,8,8] y", "float"),
    "a column of times": ("float[B,3,8,8] x, float[B,1] t", "float[B,3,8,8] y", "float"),
    "whole times": ("float[B,3,8,8] x, int64[B] t", "float[B,3,8,8] y", "float"),
    "half": ("float16[B,3,8,8] x, float16[B] t", "float16[B,3,8,8] y", "float16"),
    "double": ("double[B,3,8,8] x, double[B] t", "double[B,3,8,8] y", "double"),
    "any size": ("float[B,3,H,W] x, float[B] t", "float[B,3,H,W] y", "float"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_rows_times_and_numbers(name, tmp_path):
    """x cos(t / 1000), asked for in whatever way the graph takes it."""
    path = onnx_text(tmp_path / "g.onnx", *GRAPHS[name])
    asked = {"event_shape": SHAPE} if name == "any size" else {}
    prior = load_prior(path, convention="edm-denoiser", time="t", **asked)
    t = torch.tensor([3.0, 50.0, 700.0, 700.0, 12.0]) / 10
    t = t.round().clamp_min(1) if name == "whole times" else t
    tolerance = 2e-3 if name == "half" else 1e-5
    for n in (1, 3, 5):
        want = X[:n] * torch.cos(t[:n] / 1000).reshape(-1, 1, 1, 1)
        assert close(prior(X[:n], t[:n]).mean, want, tolerance)
    assert prior(X, t).mean.dtype == torch.float32


def test_how_often_a_graph_is_asked(tmp_path, monkeypatch):
    """Five rows: in pieces of the graph's four, the second filled up; once for each of four times; once where it is
    free, or in pieces of `batch`."""
    calls = []
    inner = OnnxGraph.call
    monkeypatch.setattr(OnnxGraph, "call", lambda self, x, t: calls.append(tuple(x.shape)) or inner(self, x, t))
    for name, batch, want in (
        ("free", None, [5]), ("free", 2, [2, 2, 1]), ("four rows", None, [4, 4]), ("a scalar time", None, [1, 1, 2, 1]),
    ):  # fmt: skip
        prior = load_prior(onnx_text(tmp_path / "g.onnx", *GRAPHS[name]), convention="ddpm", batch=batch)
        calls.clear()
        prior(X, T)
        assert [c[0] for c in calls] == want, name


def test_programs_of_a_fixed_number_of_rows(tmp_path):
    prior, own = load_prior(program(tmp_path / "g.pt2", rows=4), convention="ddpm"), wrap(net(), SHAPE, "ddpm")
    assert close(prior(X, T).mean, own(X, T).mean) and prior.card["batch"] == 4


class Traced(nn.Module):
    """A number of rows, and a time, that a trace keeps."""

    def forward(self, x, t):
        return x * torch.cos(t[:1]).reshape(1, 1, 1, 1)


def test_a_graph_that_mixes_its_rows_is_asked_row_by_row(tmp_path):
    """Its file says that the number of rows is free, and each row gets the first one's time: the trial notices."""
    torch.jit.trace(Traced(), (X[:1], T[:1])).save(str(tmp_path / "g.pt"))
    prior = load_prior(tmp_path / "g.pt", convention="edm-denoiser", time="t", event_shape=SHAPE)
    assert "fixed when it was traced" in prior.card["batch"]
    t = T.clamp(1, 80)
    assert close(prior(X, t).mean, X * torch.cos(t).reshape(-1, 1, 1, 1))


def test_times_of_torchscript_are_said(tmp_path):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(1000, 3)

        def forward(self, x, t):
            return x + self.table(t)[None, :, None, None]

    torch.manual_seed(0)
    whole = Whole().eval()
    torch.jit.trace(whole, (X[:1], torch.tensor(3))).save(str(tmp_path / "g.pt"))
    options = {"scalar_time": "true", "time_dtype": "int64", "event_shape": "3,8,8"}
    prior = load_prior(tmp_path / "g.pt", convention="ddpm", output="x0", **options)
    with torch.no_grad():
        want = torch.cat([whole(x[None], t.long()) for x, t in zip(X, T, strict=True)])
    assert close(prior(X, T).mean, want)
    with pytest.raises(InputError, match="give --prior-option event_shape=C,H,W, scalar_time=true or time_dtype=int64"):
        load_prior(tmp_path / "g.pt", convention="ddpm", event_shape=SHAPE)


def test_a_file_beside_it_says_the_convention(files, tmp_path):
    path = tmp_path / "g.onnx"
    path.write_bytes(files["net.onnx"].read_bytes())
    about = {"output": "x0", "schedule": {"name": "vp-cosine", "bound": 8.0}, "time": "log-snr", "value_range": [0, 1]}
    path.with_suffix(".json").write_text(json.dumps({"convention": about}))
    prior = load_prior(path)
    assert prior.output == "x0" and prior.inner_schedule.bound == 8.0 and prior.value_range == (0.0, 1.0)
    assert load_prior(path, output="v").output == "v"  # what is said by hand counts
    assert load_prior(path, convention="ddpm").value_range == (-1.0, 1.0)  # all that a convention says
    for wrong, word in (({"output": "noise"}, "output"), ({"colour": 1}, "'colour'"), ([], "a table")):
        path.with_suffix(".json").write_text(json.dumps({"convention": wrong}))
        with pytest.raises(CheckpointError, match=word):
            load_prior(path)


def test_methods_that_need_a_derivative_are_refused(files, prior, tmp_path, capsys):
    """In one line, which names those that work; each that it names does."""
    obs = deft.Observation(torch.zeros(1, *SHAPE), deft.Gaussian(deft.Identity(), 0.3))
    named = forward_only(obs.likelihood)
    with pytest.raises(InputError, match=r"DPS differentiates through the prior, and this one \(ONNX\) has no deriv"):
        deft.methods.plan("dps").draw(prior, obs)
    for name in named:
        if not METHODS[name].trained:
            assert deft.methods.plan(name, steps=2).draw(prior, obs).x.shape == (1, 1, *SHAPE)
    backward = [m for m in METHODS if METHODS[m].backward and METHODS[m].why_unsupported(obs.likelihood) is None]
    assert len(backward) > 5
    for name in backward:
        with pytest.raises(InputError, match=", ".join(named)):
            deft.methods.plan(name, steps=2).draw(prior, obs)
    options = ("--prior", files["net.onnx"], "--prior-option", "convention=ddpm", "--task", "denoise")
    torch.save(obs.y, tmp_path / "y.pt")
    assert run(capsys, "measure", "--task", "denoise", "--data", _images(tmp_path), "--out", tmp_path / "y.npz")[0] == 0
    says = refused(
        capsys, "sample", *options, "--measurement", tmp_path / "y.npz", "--method", "pigdm", "--out", tmp_path / "o"
    )
    assert "ddrm" in says and "pigdm" not in says.partition("none:")[2]
    says = refused(
        capsys, "evaluate", *options, "--data", _images(tmp_path), "--methods", "dps", "--out", tmp_path / "o"
    )
    assert "ddrm" in says
    code, out, _ = run(capsys, "prior", "inspect", *options[1:4])
    assert code == 0 and "derivative: none" in out and "at once: " in out and "ddrm" in out


def _images(folder):
    import numpy as np

    x = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.uint8)
    np.savez(folder / "x.npz", images=x)
    return folder / "x.npz"


def test_an_h_is_fitted_to_a_graph(files, tmp_path, capsys):
    """The run remembers it by name, and refuses it once the file is another."""
    path = tmp_path / "net.onnx"
    path.write_bytes(files["net.onnx"].read_bytes())
    fit = (
        "fit",
        "--prior",
        path,
        "--prior-option",
        "convention=ddpm",
        "--task",
        "denoise",
        "--data",
        _images(tmp_path),
    )
    assert (
        run(capsys, *fit, *["--width", "8", "--steps", "2", "--batch", "2", "--bank", "0"], "--out", tmp_path / "run")[
            0
        ]
        == 0
    )
    h = deft.load(tmp_path / "run")
    assert h.prior.card["format"] == "ONNX" and h.prior.output == "eps"
    path.write_bytes(onnx_net(tmp_path / "other.onnx").read_bytes().replace(b"pytorch", b"pytorcH"))
    with pytest.raises(CheckpointError, match="was fitted to the prior"):
        deft.load(tmp_path / "run")


# What is wrong, in one line.


def inspect(capsys, path, *options):
    return refused(capsys, "prior", "inspect", path, *(v for o in options for v in ("--prior-option", o)))


def test_bad_graphs_are_one_line(tmp_path, capsys):
    import onnx

    good = onnx_text(tmp_path / "g.onnx")
    ddpm = "convention=ddpm"
    assert "does not say what it returns" in inspect(capsys, good)
    model = onnx.load(str(good))
    model.opset_import[0].version = 99
    onnx.save(model, str(tmp_path / "new.onnx"))
    assert "operator set 99" in inspect(capsys, tmp_path / "new.onnx", ddpm)
    for i, data in enumerate((good.read_bytes()[:300], b"", b"\x08\x07\x12\x07pytorch", b"no graph at all")):
        (tmp_path / f"{i}.onnx").write_bytes(data)
        assert "truncated or no graph of ONNX" in inspect(capsys, tmp_path / f"{i}.onnx", ddpm)
    model = onnx.load(str(good))
    model.graph.node[0].op_type = "Wobble"
    onnx.save(model, str(tmp_path / "odd.onnx"))
    assert "Wobble" in inspect(capsys, tmp_path / "odd.onnx", ddpm)
    three = onnx_text(tmp_path / "3.onnx", "float[B,3,8,8] x, float[B] t, float[B] label")
    assert "takes 3 inputs (x, t, label), expected two" in inspect(capsys, three, ddpm)
    assert "3,8,8] x_t" not in inspect(capsys, good, ddpm, "event_shape=1,8,8")
    assert "event_shape=1,8,8 does not go with x_t of" in inspect(capsys, good, ddpm, "event_shape=1,8,8")
    assert "event_shape=3,64,64" in inspect(capsys, onnx_text(tmp_path / "f.onnx", *GRAPHS["any size"]), ddpm)
    assert "providers: Cuda is not among" in inspect(capsys, good, ddpm, "providers=Cuda")
    assert "leave batch=2 out" in inspect(capsys, onnx_text(tmp_path / "4.onnx", *GRAPHS["four rows"]), ddpm, "batch=2")
    assert "unknown option 'colour'" in inspect(capsys, good, ddpm, "colour=red")
    assert "bfloat16" in inspect(capsys, onnx_text(tmp_path / "b.onnx", "bfloat16[B,3,8,8] x, float[B] t"), ddpm)


def test_outputs_of_another_shape_are_one_line(tmp_path, capsys):
    wide = onnx_net(tmp_path / "wide.onnx", outputs=6)
    assert "(2, 6, 8, 8)" in (says := inspect(capsys, wide, "convention=ddpm")) or "(1, 6, 8, 8)" in says
    assert "learned_variance=true" in says
    assert load_prior(wide, convention="ddpm", learned_variance=True)(X, T).mean.shape == X.shape
    narrow = onnx_net(tmp_path / "narrow.onnx", outputs=2)
    assert "(1, 2, 8, 8) for x_t of shape (1, 3, 8, 8)" in inspect(capsys, narrow, "convention=ddpm")


def test_without_onnx_runtime(files, capsys, monkeypatch):
    for module in ("onnxruntime", "onnx"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            says = inspect(capsys, files["net.onnx"], "convention=ddpm")
        assert f"needs {module}, which is not installed: pip install 'deft-diffusion[onnx]'" in says


def test_damaged_graphs_of_pytorch_are_one_line(files, tmp_path, capsys):
    for name in ("net.pt2", "net.pt"):
        data = files[name].read_bytes()
        (tmp_path / "cut.pt2").write_bytes(data[: len(data) // 2])
        assert "truncated or no graph of torch.export" in inspect(capsys, tmp_path / "cut.pt2", "convention=ddpm")
    assert "event_shape=3,64,64" in inspect(capsys, files["net.pt"], "convention=ddpm")
    says = inspect(capsys, files["net.pt"], "convention=ddpm", "event_shape=1,8,8")
    assert "expected input[1, 1, 8, 8] to have 3 channels" in says


# Files with code in them.


def test_torchscript_with_code_is_refused(files, tmp_path, capsys):
    """Operators that write files, classes that run when they are loaded, hooks, pickles that name functions."""
    mark = tmp_path / "ran"

    class Writes(nn.Module):
        def __init__(self, path: str):
            super().__init__()
            self.path = path

        def forward(self, x, t):
            if bool(t[0] > 1e9):
                torch.save(x, self.path)
            return x

    class Wakes(nn.Module):
        def __init__(self, path: str):
            super().__init__()
            self.path, self.training = path, False

        @torch.jit.export
        def __getstate__(self):
            return self.path, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]):
            torch.save(torch.zeros(1), state[0])
            self.path, self.training = state[0], state[1]

        def forward(self, x, t):
            return x

    options = ("convention=ddpm", "event_shape=3,8,8")
    for module, word in ((Writes(str(mark)), "uses aten::save"), (Wakes(str(mark)), "has a class with __setstate__")):
        torch.jit.script(module).save(str(tmp_path / "bad.pt"))
        assert word in inspect(capsys, tmp_path / "bad.pt", *options) and not mark.exists()
    data = pickle.dumps(Runs(mark), protocol=2)
    changed(files["net.pt"], tmp_path / "pickle.pt", "/data.pkl", lambda _: data)
    says = inspect(capsys, tmp_path / "pickle.pt", *options)
    assert "would run code from the file" in says and not mark.exists()


@pytest.mark.parametrize(
    ("member", "change", "word"),
    [
        ("models/model.json", lambda t: _node(t).update(target="torch.os.system"), "uses torch.os.system"),
        ("models/model.json", lambda t: _node(t).update(target="torch.ops.aten.from_file.default"), "from_file"),
        ("models/model.json", lambda t: _node(t).update(target="torch.hub.load"), "uses torch.hub.load"),
        ("models/model.json", lambda t: _size(t).update(expr_str="__import__('os').getpid()"), "which is no sum"),
        ("models/model.json", lambda t: _size(t).update(expr_str="().__class__"), "which is no sum"),
        ("models/model.json", lambda t: _size(t).update(expr_str="9**9999"), "which is no sum"),
        ("weights_config.json", lambda t: t["config"]["conv.bias"].update(use_pickle=True), "a tensor as a pickle"),
        ("constants_config.json", lambda t: t["config"].update(a={"path_name": "opaque_obj_0"}), "is no tensor"),
    ],
)  # fmt: skip
def test_programs_with_code_are_refused(member, change, word, files, tmp_path, capsys):
    changed(files["net.pt2"], tmp_path / "bad.pt2", member, in_json(change))
    assert word in inspect(capsys, tmp_path / "bad.pt2", "convention=ddpm")


def _node(table):
    return table["graph_module"]["graph"]["nodes"][0]


def _size(table):
    return table["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]


def test_a_program_with_a_pickle_is_refused_and_its_guards_do_not_run(files, tmp_path, capsys, monkeypatch):
    mark = tmp_path / "ran"
    bad = changed(files["net.pt2"], tmp_path / "bad.pt2", "sample_inputs/model.pt", lambda _: pickled((Runs(mark), {})))
    assert (
        "holds a pickle (data/sample_inputs/model.pt)" in inspect(capsys, bad, "convention=ddpm") and not mark.exists()
    )
    # the same file, unchecked: what it is refused for is real
    monkeypatch.setattr(graph_files, "_check_pickle", lambda *a: None)
    with suppress(CheckpointError):
        load_prior(bad, convention="ddpm")
    assert mark.exists()
    mark.unlink()
    guard = f"[open({str(mark)!r}, 'w').close()] != []"
    changed(
        files["net.pt2"], tmp_path / "guard.pt2", "models/model.json", in_json(lambda t: t.update(guards_code=[guard]))
    )
    assert load_prior(tmp_path / "guard.pt2", convention="ddpm")(X, T).mean.shape == X.shape and not mark.exists()
    torch.export.load(str(tmp_path / "guard.pt2")).module()(X, T)  # as PyTorch does it
    assert mark.exists()


def test_weights_beside_an_onnx_graph(files, tmp_path, capsys):
    """They count in the fingerprint, must be there, and lie in the graph's own folder."""
    import onnx

    model = onnx.load(str(files["net.onnx"]))
    onnx.save(model, str(tmp_path / "g.onnx"), save_as_external_data=True, location="g.bin", size_threshold=0)
    prior = load_prior(tmp_path / "g.onnx", convention="ddpm")
    assert close(prior(X, T).mean, wrap(net(), SHAPE, "ddpm")(X, T).mean)
    data = bytearray((tmp_path / "g.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "g.bin").write_bytes(data)
    assert load_prior(tmp_path / "g.onnx", convention="ddpm").fingerprint() != prior.fingerprint()
    (tmp_path / "g.bin").unlink()
    assert "keeps its weights in 'g.bin'" in inspect(capsys, tmp_path / "g.onnx", "convention=ddpm")
    (tmp_path / "g.onnx").write_bytes((tmp_path / "g.onnx").read_bytes().replace(b"g.bin", b"../gg"))
    assert "names a file outside its folder ('../gg')" in inspect(capsys, tmp_path / "g.onnx", "convention=ddpm")


def test_a_program_is_moved_with_the_tensors_that_it_makes(tmp_path, monkeypatch):
    """The file says on which device a tensor is made; on another one it is made there (`meta` stands for a GPU)."""
    from deft.prior import graphs

    class Makes(nn.Module):
        def forward(self, x, t):
            return x * torch.arange(8, device="cpu", dtype=x.dtype) + t.reshape(-1, 1, 1, 1)

    torch.export.save(torch.export.export(Makes(), (X[:2], T[:2])), tmp_path / "g.pt2")
    made = graphs.open_torch(tmp_path / "g.pt2", graph_files.PROGRAM, torch.device("meta"))
    assert made.net(X[:2].to("meta"), T[:2].to("meta")).device.type == "meta"
    monkeypatch.setattr(graphs, "_on", lambda program, device: program)
    with pytest.raises(RuntimeError):
        graphs.open_torch(tmp_path / "g.pt2", graph_files.PROGRAM, torch.device("meta")).net(
            X[:2].to("meta"), T[:2].to("meta")
        )


def test_a_pipeline_says_which_methods_need_no_derivative(files):
    """Not the core's words: the names of methods, as `deft sample` gives them; one of them runs."""
    pytest.importorskip("diffusers")
    from deft.diffusers import DeftPipeline

    prior = load_prior(files["net.onnx"], convention="ddpm")
    pipe = DeftPipeline(prior, task="inpaint")
    side = prior.event_shape[1]
    call = {"image": torch.rand(prior.event_shape), "mask_image": torch.ones(side, side).tril(-1), "output_type": "pt"}
    with pytest.raises(InputError, match=r"DPS differentiates .* \(ONNX\) has no derivative: take a method .*ddrm"):
        pipe(**call, num_inference_steps=2)
    assert pipe(**call, num_inference_steps=2, method="ddrm").images.shape == (1, *prior.event_shape)


def test_a_precision_that_does_nothing_is_said(files, capsys, tmp_path):
    """A graph of ONNX computes as it was exported."""
    side = load_prior(files["net.onnx"], convention="ddpm").event_shape
    np.savez(tmp_path / "y.npz", x=np.random.default_rng(0).random((1, *side), np.float32))
    _, out, err = run(
        capsys, "sample", "--prior", files["net.onnx"], "--prior-option", "convention=ddpm", "--precision", "bf16",
        "--task", "denoise", "--method", "ddrm", "--measurement", tmp_path / "y.npz", "--range", "0,1",
        "--steps", "2", "--out", tmp_path / "out",
    )  # fmt: skip
    assert "--precision bf16 does nothing to ExportedPrior" in out + err


@pytest.mark.parametrize(
    ("name", "says"),
    [("a" * 5000, "is not beside it"), ("a\0b", "is not beside it"), ("../w", "outside its folder")],
    ids=["long", "NUL", "outside"],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_names_of_weights_that_no_file_has_or_may_have(tmp_path, name, says, sparse):
    import onnx

    tensor = onnx.TensorProto(name="w", data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    graph = onnx.GraphProto()
    if sparse:
        graph.sparse_initializer.add().values.CopyFrom(tensor)
    else:
        graph.initializer.append(tensor)
    (tmp_path / "g.onnx").write_bytes(onnx.ModelProto(graph=graph).SerializeToString())
    with pytest.raises(CheckpointError, match=says) as error:
        graph_files.onnx_parts(tmp_path / "g.onnx", onnx.load(str(tmp_path / "g.onnx"), load_external_data=False))
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
