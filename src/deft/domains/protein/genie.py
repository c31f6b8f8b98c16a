"""Genie v1 checkpoints as priors of backbones: Lin & AlQuraishi 2023 (arXiv 2301.12485), github.com/aqlaboratory/genie.

    prior = load_genie("scope_l_128/epoch=49999.ckpt")  # with the file `configuration` beside it, if there is one
    prior = load_genie("my.ckpt", config="runs/my/configuration")

Genie is a DDPM of C-alpha traces in angstrom. Its network moves the residues of x_t, through local frames that it turns
as well, and the move is the noise: eps = x_t - net(x_t, t). It sees distances and local frames alone, so eps turns with
x_t and does not depend on where x_t lies; in training the noise had a mean that could not be seen, and what is left to
predict is the centred noise of this library's subspace. The network was fitted to the mean distance of noise and eps,
not to its square: E[x_0 | x_t] is what its answer is taken for, as its own sampler does.

The network here is written from the paper, from Jumper et al. 2021 (algorithms 11, 12, 15, 22 and 23) and from the
names and shapes of the published state dict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.core.denoiser import freeze
from deft.denoiser import NetworkDenoiser
from deft.domains.protein.chains import UNIT
from deft.domains.protein.geometry import centred, coordinates, full_precision, neighbours, residues
from deft.domains.protein.prior import ChainPrior
from deft.errors import CheckpointError, InputError, unknown
from deft.io.reading import read_text
from deft.io.torch_files import read_torch_file
from deft.runtime.untrusted import building, describable
from deft.schedule import VPTable

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEDULES = ("cosine", "linear")
BESIDE = "configuration"
"""Name of the published text files of settings."""


# Settings.


@dataclass(frozen=True)
class GenieConfig:
    """What changes the network or its noise; what is not given has the published default. `KEYS`: the names in a file.

    longest: residues that chains were padded to in training. It sets the code of positions, and the weights do not tell
        it.
    steps: T. schedule: cosine or linear. single, pair: widths of a residue and of two. position, time: numbers that
        code them.
    reach: separations along the chain of more than this many residues count as this many. triangle: width of the
        triangle multiplication.
    widening: of the pair transition. structure_blocks: times that all structure layers are run. hidden, heads,
        query_points, value_points: of the point attention.
    """

    longest: int = 128
    steps: int = 1000
    schedule: str = "cosine"
    single: int = 128
    pair: int = 128
    position: int = 128
    time: int = 128
    reach: int = 32
    pair_layers: int = 5
    triangle: int = 128
    widening: int = 4
    structure_layers: int = 5
    structure_blocks: int = 1
    hidden: int = 16
    heads: int = 12
    query_points: int = 4
    value_points: int = 8
    transitions: int = 1

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("Genie schedule", str(self.schedule), SCHEDULES)
        for name, value in asdict(self).items():
            low = 0 if name in ("pair_layers", "transitions") else 2 if name == "steps" else 1
            if name != "schedule" and not (isinstance(value, int) and value >= low):
                raise InputError(f"{name} of a Genie network is a whole number from {low}, got {value!r}")


KEYS: dict[str, str] = {
    "maximumNumResidues": "longest",
    "numTimesteps": "steps",
    "schedule": "schedule",
    "singleFeatureDimension": "single",
    "pairFeatureDimension": "pair",
    "positionalEmbeddingDimension": "position",
    "timestepEmbeddingDimension": "time",
    "relativePositionK": "reach",
    "numPairTransformLayers": "pair_layers",
    "triangularMultiplicativeHiddenDimension": "triangle",
    "pairTransitionN": "widening",
    "numStructureLayers": "structure_layers",
    "numStructureBlocks": "structure_blocks",
    "ipaHiddenDimension": "hidden",
    "ipaNumHeads": "heads",
    "ipaNumQkPoints": "query_points",
    "ipaNumVPoints": "value_points",
    "numStructureTransitionLayers": "transitions",
}
"""Name in a configuration file -> field of `GenieConfig`."""

BUILT: dict[str, str] = {
    "templateType": "v1",
    "includeTriangularMultiplicativeUpdate": "True",
    "includeTriangularAttention": "False",
}
"""Name in a configuration file -> the one value that is built here, that of every published model."""

TRAINING = frozenset(
    {
        "name",
        "minimumNumResidues",
        "logDirectory",
        "dataDirectory",
        "datasetNames",
        "datasetSize",
        "datasetClasses",
        "seed",
        "numEpoches",
        "batchSize",
        "logEverySteps",
        "checkpointEveryEpoches",
        "learningRate",
        "triangularAttentionHiddenDimension",
        "triangularAttentionNumHeads",
        "triangularDropout",
        "ipaDropout",
        "structureTransitionDropout",
    }
)
"""Names in a configuration file that say nothing of a frozen network."""
MAX_CONFIG = 2**20
"""Bytes of a configuration file."""


def read_config(path: str | Path) -> GenieConfig:
    """The settings in a configuration file: a name and a value on each line.

    Where a file has no longest chain but a shortest, chains were cut to that, and it is the longest too.

    Raises:
        InputError: no such file, or no text; a line, a name or a value that is not known; no longest chain; a network
            that is not built here.
    """
    path = Path(path)
    try:
        lines = read_text(path, "a Genie configuration", MAX_CONFIG, InputError).splitlines()
    except InputError as error:
        raise InputError(
            f"{path} cannot be read as a Genie configuration ({error}); give the text file that the checkpoint was"
            " trained with"
        ) from error
    said: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words and len(words) != 2:
            raise InputError(f"{path}, line {number}: expected a name and a value, got {line.strip()[:60]!r}")
        if words:
            said[words[0]] = words[1]
    for key, value in said.items():
        if key not in {*KEYS, *BUILT, *TRAINING}:
            raise unknown(f"Genie setting in {path}", key, {*KEYS, *BUILT, *TRAINING})
        if BUILT.get(key, value) != value:
            raise InputError(
                f"{path}: {key} is {value}, and networks of {key} {BUILT[key]} alone are built here, as all published"
                " ones are"
            )
    if "maximumNumResidues" not in said:
        if "minimumNumResidues" not in said:
            raise InputError(
                f"{path} has neither maximumNumResidues nor minimumNumResidues: add the length that chains had in"
                " training, which codes positions"
            )
        said["maximumNumResidues"] = said["minimumNumResidues"]
    values: dict[str, Any] = {}
    for key, field in KEYS.items():
        if key in said:
            try:
                values[field] = said[key] if field == "schedule" else int(said[key])
            except ValueError as error:
                raise InputError(f"{path}: {key} is {said[key]!r}, expected a whole number") from error
    return GenieConfig(**values)


def noise_schedule(config: GenieConfig) -> VPTable:
    """The table of betas for coordinates in angstrom; N = steps.

    cosine: abar_i = cos^2(pi/2 (i + 1)/(N + 1)), betas at most 0.999: unlike that of Nichol & Dhariwal (2021) it has no
    offset at its start, and ends a step before no signal. It is computed in float64; the original's float32 table has
    sigma off by up to 1.3e-5, at its first steps.
    linear: betas from 1e-4 to 2e-2.
    """
    if config.schedule == "linear":
        return VPTable.linear(config.steps)
    abar = torch.cos(torch.arange(config.steps + 1, dtype=torch.float64) / (config.steps + 1) * math.pi / 2) ** 2
    return VPTable((1 - abar[1:] / abar[:-1]).clamp(max=0.999).tolist())


# The network, under its published names.


def waves(v: Tensor, longest: int, width: int) -> Tensor:
    """Numbers that code v, [*, width]: number k of 1, 2, ... is cos(pi v / longest^(2(k - 1)/width)) for an odd k,
    sin(pi v / longest^(2k/width)) for an even one.

    In float32, as in training: there the first ones are a rounded pi times up to 999.
    """
    k = torch.arange(1, width + 1, device=v.device)
    angle = v.float()[..., None] * math.pi / float(longest) ** (2 * (k - k % 2) / width)
    return torch.where(k % 2 == 1, angle.cos(), angle.sin())


def frenet(x: Tensor, real: Tensor) -> Tensor:
    """The frame at each residue, [B, L, 3, 3]; its columns are tangent, binormal and normal. x: [B, L, 3] in angstrom.

    t is the direction of the bond to the next residue, b that of (bond before) x t, and n = b x t. So frames are
    left-handed (their determinant is -1): the weights were fitted to these. An end residue has the frame of its
    neighbour.
    """
    before, here, after = neighbours(x, (-1, 0, 1), real, margin=1).unbind(2)
    first, tangent = (v * (v.square().sum(-1, keepdim=True) + 1e-10).rsqrt() for v in (here - before, after - here))
    b = torch.linalg.cross(first, tangent)
    b = b * (b.square().sum(-1, keepdim=True) + 1e-10).rsqrt()
    return torch.stack([tangent, b, torch.linalg.cross(b, tangent)], -1)


def turned(v: Tensor) -> Tensor:
    """The rotation of the quaternion (1, v) made unit, [*, 3, 3]: (1 - |v|^2) I + 2 v v^T + 2 [v]x, over 1 + |v|^2. v:
    [*, 3]."""
    square = v.square().sum(-1)[..., None, None]
    eye = torch.eye(3, device=v.device, dtype=v.dtype)
    # its rows are v x e_i: the transpose of [v]x
    cross = torch.linalg.cross(v[..., None, :].expand(*v.shape, 3), eye.expand(*v.shape, 3))
    return ((1 - square) * eye + 2 * v[..., None] * v[..., None, :] + 2 * cross.transpose(-1, -2)) / (1 + square)


class Singles(nn.Module):
    """What a residue is at first: its place from the start of the chain, and the step of the noise."""

    def __init__(self, c: GenieConfig):
        super().__init__()
        self.config = c
        self.linear = nn.Linear(c.position + c.time, c.single)

    def forward(self, time: Tensor, real: Tensor) -> Tensor:
        c, own = self.config, self.linear.weight.dtype
        place = waves(torch.arange(real.shape[1], device=real.device), c.longest, c.position).expand(*real.shape, -1)
        step = waves(time, c.steps, c.time)[:, None].expand(*real.shape, -1)
        return self.linear((torch.cat([place, step], -1) * real[..., None]).to(own))


class Pairs(nn.Module):
    """What two residues are at first: both of them, their separation along the chain, and their distance in
    angstrom."""

    def __init__(self, c: GenieConfig):
        super().__init__()
        self.reach = c.reach
        self.linear_s_p_i, self.linear_s_p_j = nn.Linear(c.single, c.pair), nn.Linear(c.single, c.pair)
        self.linear_relpos, self.linear_template = nn.Linear(2 * c.reach + 1, c.pair), nn.Linear(1, c.pair)

    def forward(self, s: Tensor, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[1], device=x.device)
        along = (at[:, None] - at).clamp(-self.reach, self.reach) + self.reach
        distance = ((x[:, :, None] - x[:, None]).square().sum(-1, keepdim=True) + 1e-10).sqrt()
        both = self.linear_s_p_i(s)[:, :, None] + self.linear_s_p_j(s)[:, None]
        return (
            both
            + F.embedding(along, self.linear_relpos.weight.T)
            + self.linear_relpos.bias
            + self.linear_template(distance.to(both))
        )


class Triangle(nn.Module):
    """Triangle multiplication (Jumper et al. 2021, algorithms 11 and 12): sum_k a_ik b_jk, of outgoing edges, or sum_k
    a_ki b_kj, of incoming ones."""

    def __init__(self, c: GenieConfig, edges: str):
        super().__init__()
        self.edges = {"outgoing": "bikc,bjkc->bijc", "incoming": "bkic,bkjc->bijc"}[edges]
        self.linear_a_p, self.linear_a_g, self.linear_b_p, self.linear_b_g = (
            nn.Linear(c.pair, c.triangle) for _ in range(4)
        )
        self.linear_g, self.linear_z = nn.Linear(c.pair, c.pair), nn.Linear(c.triangle, c.pair)
        self.layer_norm_in, self.layer_norm_out = nn.LayerNorm(c.pair), nn.LayerNorm(c.triangle)

    def forward(self, p: Tensor, there: Tensor) -> Tensor:
        p = self.layer_norm_in(p)
        a = self.linear_a_p(p) * self.linear_a_g(p).sigmoid() * there
        b = self.linear_b_p(p) * self.linear_b_g(p).sigmoid() * there
        return self.linear_z(self.layer_norm_out(torch.einsum(self.edges, a, b))) * self.linear_g(p).sigmoid()


class Widened(nn.Module):
    """The transition of pairs (Jumper et al. 2021, algorithm 15)."""

    def __init__(self, c: GenieConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(c.pair)
        self.linear_1, self.linear_2 = nn.Linear(c.pair, c.widening * c.pair), nn.Linear(c.widening * c.pair, c.pair)

    def forward(self, p: Tensor) -> Tensor:
        return self.linear_2(self.linear_1(self.layer_norm(p)).relu())


class PairLayer(nn.Module):
    def __init__(self, c: GenieConfig):
        super().__init__()
        self.tri_mul_out, self.tri_mul_in, self.pair_transition = (
            Triangle(c, "outgoing"),
            Triangle(c, "incoming"),
            Widened(c),
        )

    def forward(self, p: Tensor, there: Tensor) -> Tensor:
        p = p + self.tri_mul_out(p, there)
        p = p + self.tri_mul_in(p, there)
        return (p + self.pair_transition(p)) * there


class PointAttention(nn.Module):
    """Invariant point attention (Jumper et al. 2021, algorithm 22): attention with the distances of points that each
    residue places in its frame.

    Of the points, which are coordinates, all first ones come first in a linear map's output, then all second and all
    third ones.
    """

    def __init__(self, c: GenieConfig):
        super().__init__()
        self.config = c
        inner, queries, keys = c.heads * c.hidden, c.heads * c.query_points, c.heads * (c.query_points + c.value_points)
        self.linear_q, self.linear_kv = nn.Linear(c.single, inner), nn.Linear(c.single, 2 * inner)
        self.linear_q_points, self.linear_kv_points = nn.Linear(c.single, 3 * queries), nn.Linear(c.single, 3 * keys)
        self.linear_b = nn.Linear(c.pair, c.heads)
        self.head_weights = nn.Parameter(torch.full((c.heads,), math.log(math.e - 1)))  # softplus of it is 1
        self.linear_out = nn.Linear(c.heads * (c.hidden + 4 * c.value_points + c.pair), c.single)

    def placed(self, numbers: Tensor, frame: Tensor, x: Tensor) -> Tensor:
        """Points [B, L, 3, heads, P] in space, of numbers in the residues' frames."""
        own = numbers.reshape(*x.shape, self.config.heads, -1).to(x.dtype)
        return torch.einsum("bixy,biyhp->bixhp", frame, own) + x[..., None, None]

    def forward(self, s: Tensor, p: Tensor, frame: Tensor, x: Tensor, real: Tensor) -> Tensor:
        c, own = self.config, s.dtype
        q = self.linear_q(s).reshape(*real.shape, c.heads, c.hidden)
        k, v = self.linear_kv(s).reshape(*real.shape, c.heads, 2 * c.hidden).chunk(2, -1)
        q_points = self.placed(self.linear_q_points(s), frame, x)
        k_points, v_points = self.placed(self.linear_kv_points(s), frame, x).split([c.query_points, c.value_points], -1)
        each = F.softplus(self.head_weights) * math.sqrt(2 / (27 * c.query_points))
        # [B, L, L, heads]; |q|^2 + |k|^2 - 2 qk would lose what counts to rounding
        apart = (q_points[:, :, None] - k_points[:, None]).square().sum((3, -1))
        logits = torch.einsum("bihc,bjhc->bhij", q, k) / math.sqrt(3 * c.hidden) + (
            self.linear_b(p) / math.sqrt(3) - apart * each / 2
        ).permute(0, 3, 1, 2)
        # finite: a sample without residues is no NaN
        weights = logits.masked_fill(~real[:, None, None], torch.finfo(own).min).softmax(-1)
        seen = torch.einsum("bhij,bjxhp->bixhp", weights.to(x.dtype), v_points) - x[..., None, None]
        seen = torch.einsum("biyx,biyhp->bixhp", frame, seen)
        far = (seen.square().sum(2) + 1e-8).sqrt()
        values = torch.einsum("bhij,bjhc->bihc", weights, v)
        between = torch.einsum("bhij,bijc->bihc", weights, p)
        return self.linear_out(torch.cat([part.flatten(2).to(own) for part in (values, seen, far, between)], -1))


class Step(nn.Module):
    def __init__(self, c: GenieConfig):
        super().__init__()
        self.linear_1, self.linear_2, self.linear_3 = (nn.Linear(c.single, c.single) for _ in range(3))

    def forward(self, s: Tensor) -> Tensor:
        return s + self.linear_3(self.linear_2(self.linear_1(s).relu()).relu())


class Transition(nn.Module):
    def __init__(self, c: GenieConfig):
        super().__init__()
        self.layers = nn.ModuleList(Step(c) for _ in range(c.transitions))
        self.layer_norm = nn.LayerNorm(c.single)

    def forward(self, s: Tensor) -> Tensor:
        for layer in self.layers:
            s = layer(s)
        return self.layer_norm(s)


class Update(nn.Module):
    """The update of frames (Jumper et al. 2021, algorithm 23): three numbers of a quaternion, three of a move in the
    frame."""

    def __init__(self, c: GenieConfig):
        super().__init__()
        self.linear = nn.Linear(c.single, 6)

    def forward(self, s: Tensor, frame: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        turn, move = self.linear(s).to(x.dtype).chunk(2, -1)
        return frame @ turned(turn), x + (frame @ move[..., None])[..., 0]


class StructureLayer(nn.Module):
    def __init__(self, c: GenieConfig):
        super().__init__()
        self.ipa, self.ipa_layer_norm = PointAttention(c), nn.LayerNorm(c.single)
        self.transition, self.bb_update = Transition(c), Update(c)

    def forward(self, s: Tensor, p: Tensor, frame: Tensor, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = self.transition(self.ipa_layer_norm(s + self.ipa(s, p, frame, x, real)))
        return s, *self.bb_update(s, frame, x)


class Layers(nn.Module):
    """Only a name: the published one has its layers in `net`."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.net = nn.ModuleList(layers)


class GenieNet(nn.Module):
    """net(x [B, L, 3] in angstrom, step [B]) -> the trace moved, [B, L, 3], also in angstrom: x minus the noise in it.

    The network of Lin & AlQuraishi 2023.

    real: which rows are residues, [B, L]; by default those that are not exactly zero. What is in the other rows of the
    answer means nothing. No L changes what comes out for a residue: positions are coded by `longest`, as in training,
    where every chain was padded to that.
    """

    def __init__(self, config: GenieConfig | None = None):
        super().__init__()
        self.config = c = config or GenieConfig()
        self.single_feature_net, self.pair_feature_net = Singles(c), Pairs(c)
        self.pair_transform_net = Layers([PairLayer(c) for _ in range(c.pair_layers)])
        self.structure_net = Layers([StructureLayer(c) for _ in range(c.structure_layers)])

    def forward(self, x: Tensor, time: Tensor, real: Tensor | None = None) -> Tensor:
        if x.shape[1] > self.config.longest:
            raise InputError(
                f"a chain of {x.shape[1]} residues: this Genie network knows at most {self.config.longest}; ask for"
                " shorter chains"
            )
        with full_precision(x):
            x = coordinates(x)
            real = residues(x) if real is None else real
            there = (real[:, :, None] & real[:, None])[..., None]
            s, frame = self.single_feature_net(time, real), frenet(x, real)
            p = self.pair_feature_net(s, x) * there
            for layer in self.pair_transform_net.net:
                p = layer(p, there)
            for _ in range(self.config.structure_blocks):
                for layer in self.structure_net.net:
                    s, frame, x = layer(s, p, frame, x, real)
            return x


class Eps(nn.Module):
    """net(x, time) -> the noise that the network takes away: centred, and zero behind the end of a chain."""

    def __init__(self, net: GenieNet):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        real = residues(x)
        x = centred(x, real)
        return centred(x - self.net(x, time, real), real)


# The prior.


class GeniePrior(ChainPrior, NetworkDenoiser):
    """Traces [B, L, 3] of any length L up to the longest of training, in units of 8 angstrom, as those of
    `BackbonePrior`: a prior of Lin & AlQuraishi 2023.

    t is the index into Genie's table of betas. Between two the network hears the nearest, since the first numbers that
    code a step change sign from one step to the next. The table is that of coordinates in angstrom: seen in units of 8,
    its noise has an eighth of the deviation.
    """

    def __init__(self, net: GenieNet, length: int | None = None):
        longest = net.config.longest
        super().__init__(
            Eps(net),
            noise_schedule(net.config),
            (longest if length is None else length, 3),
            "eps",
            time="index",
            value_range=(-UNIT, UNIT),
        )
        self.config = net.config

    def of_length(self, length: int) -> Self:
        if not 1 <= length <= self.config.longest:
            raise InputError(
                f"a chain of {length} residues: this Genie network knows 1 to {self.config.longest}; give another"
                " length"
            )
        return super().of_length(length)

    def describe(self) -> dict[str, Any]:
        """With the settings that change what the network computes, but none of its weights."""
        return super().describe() | {
            "genie": {"longest": self.config.longest, "structure_blocks": self.config.structure_blocks}
        }


# Files.

LANDMARK = "single_feature_net.linear.weight"
PREFIX = "model."
"""Of every name in the state dict of a Lightning checkpoint."""


def recognise(path: str | Path) -> bool:
    """Whether a file is a checkpoint of a Genie network; only tensors are read."""
    try:
        return LANDMARK in read_state(path)
    except CheckpointError:
        return False


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a Lightning checkpoint, or in a file that is one, without its prefix. Nothing in the file is
    run.

    Raises:
        CheckpointError: no such file; truncated; more than tensors and plain values in it; no Genie network.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    found = read_torch_file(
        path,
        "where you trust it, load it with the library it is from and save its state dict alone:"
        " torch.save(model.state_dict(), path)",
    )
    inner = found.get("state_dict", found) if isinstance(found, Mapping) else {}
    state = {str(k).removeprefix(PREFIX): v for k, v in inner.items()} if isinstance(inner, Mapping) else {}
    if LANDMARK not in state:
        holds = ", ".join(str(k) for k in list(state)[:3]) or type(found).__name__
        raise CheckpointError(
            f"{path} holds no Genie network (it holds: {holds}, ...); expected {PREFIX}{LANDMARK} and so on in its"
            " state_dict"
        )
    foreign = next((k for k, v in state.items() if not (isinstance(v, Tensor) and v.is_floating_point())), None)
    if foreign is not None:
        raise CheckpointError(f"{path}: {foreign} is no tensor of floats; give a file of plain weights")
    return state


def load_genie(
    checkpoint: str | Path, config: GenieConfig | str | Path | None = None, device: torch.device | str | None = None
) -> GeniePrior:
    """A Genie v1 checkpoint (Lin & AlQuraishi 2023; .ckpt) as a frozen prior, in float32; every weight is checked and
    used.

    Args:
        config: the settings, or the file that has them. None: the file `configuration` beside the checkpoint; without
            one the published defaults, and what the weights do not tell of them is in `prior.card["unsure"]`.
        device: the CPU if None.

    Raises:
        CheckpointError: a file that is not there, cut off, not only tensors, or not of this network.
        InputError: a configuration that is not understood, or of a network that is not built here.
    """
    path, unsure = Path(checkpoint), list[str]()
    state = read_state(path)
    if config is None:
        beside = path.with_name(BESIDE)
        config = read_config(beside) if beside.is_file() else GenieConfig()
        if not beside.is_file():
            unsure = [
                (
                    "longest chain: not in the weights, and positions are coded by it; assumed"
                    f" maximumNumResidues={config.longest}"
                ),
                f"noise schedule: not in the weights; assumed schedule={config.schedule}, numTimesteps={config.steps}",
            ]
    elif not isinstance(config, GenieConfig):
        config = read_config(config)
    try:
        with torch.device("meta"), building(*describable(state)):
            net = GenieNet(config)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit the Genie network of its settings: {error}") from error
    _check(path, net, state)
    net.to_empty(device=device or "cpu")
    net.load_state_dict(state)
    prior = GeniePrior(net)
    prior.card = {
        "family": "genie",
        "name": path.stem,
        "file": path.name,
        "config": {f.name: getattr(config, f.name) for f in fields(config)},
        "unit": f"{UNIT:g} angstrom",
        "unsure": unsure,
        "parameters": prior.parameter_count(),
    }
    freeze(prior)
    return prior.to(device or "cpu")


def _check(path: Path, net: GenieNet, state: Mapping[str, Tensor]) -> None:
    """Every name and shape is as expected, or `CheckpointError` says how many are not and which come first."""
    want = {name: tuple(v.shape) for name, v in net.state_dict().items()}
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {shape}"
        for name, shape in want.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    faults = {
        "missing": [n for n in want if n not in state],
        "unexpected": [n for n in state if n not in want],
        "of another shape": wrong,
    }
    told = [f"{len(names)} {kind} (first: {'; '.join(names[:2])})" for kind, names in faults.items() if names]
    if told:
        raise CheckpointError(
            f"{path} does not fit the Genie network of its settings: {', '.join(told)}; give config=, the configuration"
            " file it was trained with"
        )
