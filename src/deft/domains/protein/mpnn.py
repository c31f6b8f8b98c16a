"""How plausible a C-alpha trace is to a network that writes sequences for traces: CA-only ProteinMPNN, inference alone.

A message-passing network on the 48 nearest neighbours (Dauparas et al. 2022, the CA model; its graph after Ingraham et
al. 2019): three encoder layers on the geometry, three decoder layers that predict the residues one by one in a random
order,

    log p(sequence | x) = sum_t log p(s_o(t) | x, s_o(1), ..., s_o(t-1)).

`plausibility` writes one sequence for each trace at a low temperature and gives its mean negative log-likelihood (NLL,
nats a residue). That separates rubbish from protein, but it is blind to handedness (a mirror image scores as its
original does), and says nothing of whether the sequence folds. Weights: bundled, `ca v_48_020` (MIT;
data/MPNN-LICENSE.txt).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from deft.core.random import generator
from deft.errors import CheckpointError, InputError
from deft.io.files import check_header

ALPHABET = "ACDEFGHIKLMNPQRSTVWYX"
"""Letters in the network's order; X is an unknown residue, which is never written."""

WEIGHTS = Path(__file__).with_name("data") / "ca-mpnn-48-020.safetensors"
WIDTH, NEIGHBOURS = 128, 48
MESSAGES = 30.0
"""Messages are summed over the neighbours and divided by this, however many there are."""


class Graph(NamedTuple):
    """What the decoder sees of the traces: node [B, L, d], edge [B, L, K, d], places [B, L, K] of the neighbours (self
    included), near [B, L, K, 1] 1 for real neighbours and 0 for padding, real [B, L, 1] likewise for residues."""

    node: Tensor
    edge: Tensor
    places: Tensor
    near: Tensor
    real: Tensor


class Design(NamedTuple):
    """A sequence for each trace, [B, L] as letters' places in `ALPHABET`, and log p of each letter chosen (at T = 1),
    [B, L]."""

    sequence: Tensor
    log_prob: Tensor


def gather(x: Tensor, index: Tensor) -> Tensor:
    """[B, L, d] at [B, ...] -> [B, ..., d]."""
    rows = torch.arange(len(x), device=x.device).reshape(-1, *[1] * (index.ndim - 1))
    return x[rows, index]


class Feed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.W_in, self.W_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.W_out(F.gelu(self.W_in(x)))


class Decoder(nn.Module):
    """A residue adds up messages from its neighbours, message = MLP([own node, edge, ..., neighbour's node]).

    The first layer of the MLP is applied block by block, to nodes before they are copied to their neighbours, and the
    last one, which is linear, after the sum: a third of the work of doing both edge by edge, and the same numbers to
    rounding.
    """

    def __init__(self, width: int, shown: int):
        super().__init__()
        self.W1, self.W2, self.W3 = nn.Linear(width + shown, width), nn.Linear(width, width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dense = Feed(width)

    def block(self, k: int, x: Tensor) -> Tensor:
        """What the k-th of the concatenated inputs adds to the first layer; 0 is the own node, 1 the edge, -1 the
        neighbour."""
        return F.linear(x, self.W1.weight.split(WIDTH, 1)[k])

    def forward(self, node: Tensor, shown: Tensor, near: Tensor) -> Tensor:
        """node: [..., d]; shown: the blocks but the own one, added up, [..., K, d]; near: [..., K, 1]."""
        hidden = F.gelu(self.W2(F.gelu((self.block(0, node) + self.W1.bias)[..., None, :] + shown)))
        message = F.linear((near * hidden).sum(-2), self.W3.weight) + near.sum(-2) * self.W3.bias
        node = self.norm1(node + message / MESSAGES)
        return self.norm2(node + self.dense(node))


class Encoder(Decoder):
    """The same, and then the edges are renewed from their two ends."""

    def __init__(self, width: int):
        super().__init__(width, 2 * width)
        self.W11, self.W12, self.W13 = nn.Linear(3 * width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.norm3 = nn.LayerNorm(width)

    def renew(self, node: Tensor, edge: Tensor, index: Tensor) -> Tensor:
        own, between, other = self.W11.weight.split(WIDTH, 1)
        ends = (
            F.linear(node, own, self.W11.bias)[:, :, None]
            + F.linear(edge, between)
            + gather(F.linear(node, other), index)
        )
        return self.norm3(edge + self.W13(F.gelu(self.W12(F.gelu(ends)))))


def backbone_frames(x: Tensor, length: Tensor) -> Tensor:
    """Axes of each residue from it and its two neighbours in the chain, as rows: [B, L, 3] -> [B, L, 3, 3].

    With unit bond vectors u before and v after a residue: u - v, u x v (both scaled to length 1) and their cross
    product. Zero at the first and the last two residues, as in training; a bond out of 3.6-4.0 angstrom counts as none
    (zero).
    """
    step = x.diff(dim=1)
    size = step.norm(dim=-1, keepdim=True)
    unit = F.normalize(torch.where((size > 3.6) & (size < 4.0), step, 0.0), dim=-1)
    u, v = unit[:, :-1], unit[:, 1:]
    bisector, normal = F.normalize(u - v, dim=-1), F.normalize(torch.linalg.cross(u, v), dim=-1)
    axes = F.pad(torch.stack([bisector, normal, torch.linalg.cross(bisector, normal)], 2), (0, 0, 0, 0, 1, 1))
    place = torch.arange(x.shape[1], device=x.device)
    return axes * (place < length[:, None] - 2)[:, :, None, None]


def quaternion(r: Tensor) -> Tensor:
    """Of rotations [..., 3, 3]: (x, y, z, w) with w >= 0, length 1; that of a zero matrix is (0, 0, 0, 1)."""
    a, b, c = r.diagonal(dim1=-2, dim2=-1).unbind(-1)
    size = 0.5 * torch.stack([1 + a - b - c, 1 - a + b - c, 1 - a - b + c], -1).abs().sqrt()
    twist = torch.stack([r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1)
    w = 0.5 * (1 + a + b + c).clamp_min(0).sqrt()
    return F.normalize(torch.cat([twist.sign() * size, w[..., None]], -1), dim=-1)


class Edges(nn.Module):
    """Features of residue pairs: separation along the chain, nine distances, direction and relative orientation.

    The relative orientation of residues with axes O_i, O_j (rows) is the rotation O_i^T O_j, as published: its angle
    does not depend on the pose of the chain, but its axis is in the coordinates of the file and turns with them. The
    distances are those between {previous, own, next} CA of one residue and of the other, in 16 Gaussians from 2 to 22
    angstrom. At a terminus the missing neighbour is put at the origin, as in training: traces are centred first, so
    that their place does not matter. node_embedding and norm_nodes are in the published file and unused there, too.
    """

    PAIRS = ((1, 1), (0, 0), (2, 2), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
    REACH = 32

    def __init__(self, width: int):
        super().__init__()
        # the last one is "another chain"
        self.embeddings = nn.ModuleDict({"linear": nn.Linear(2 * self.REACH + 2, 16)})
        self.edge_embedding, self.norm_edges = nn.Linear(16 + 16 * 9 + 7, width, bias=False), nn.LayerNorm(width)
        self.node_embedding, self.norm_nodes = nn.Linear(3, width, bias=False), nn.LayerNorm(width)

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, L, 3] centred, zero at padding; real: [B, L] -> features [B, L, K, d], neighbours [B, L, K]."""
        both = real[:, :, None] & real[:, None, :]
        distance = ((x[:, :, None] - x[:, None]).square().sum(-1) + 1e-6).sqrt()
        index = torch.where(both, distance, torch.inf).topk(min(NEIGHBOURS, x.shape[1]), largest=False).indices
        copies = F.pad(x[:, :-1], (0, 0, 1, 0)), x, F.pad(x[:, 1:], (0, 0, 0, 1))
        centres = torch.linspace(2, 22, 16, device=x.device)
        near = [gather(c, index) for c in copies]
        bumps = []
        for i, j in self.PAIRS:
            d = ((copies[i][:, :, None] - near[j]).square().sum(-1) + 1e-6).sqrt()
            bumps.append(torch.exp(-(((d[..., None] - centres) / 1.25) ** 2)))
        place = torch.arange(x.shape[1], device=x.device)
        apart = (place[:, None] - index + self.REACH).clamp(0, 2 * self.REACH)
        position = self.embeddings["linear"](F.one_hot(apart, 2 * self.REACH + 2).to(x.dtype))
        axes = backbone_frames(x, real.sum(1))
        theirs = gather(axes.flatten(2), index).unflatten(-1, (3, 3))
        toward = F.normalize((axes[:, :, None] @ (near[1] - x[:, :, None])[..., None])[..., 0], dim=-1)
        turn = quaternion(axes[:, :, None].mT @ theirs)
        return self.norm_edges(self.edge_embedding(torch.cat([position, *bumps, toward, turn], -1))), index


class CAMPNN(nn.Module):
    """CA-only ProteinMPNN (Dauparas et al. 2022). Traces are [B, L, 3] in angstrom, real [B, L] marks residues (the
    rest is padding at the end).

    A trace's numbers do not depend on its batch, its padding or its place; they do on its orientation (see `Edges`), by
    up to 0.1 in a residue's log p and 0.001 in a chain's mean, which is why `plausibility` turns traces `upright`
    first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = Edges(WIDTH)
        self.W_v = nn.Linear(WIDTH, WIDTH)  # in the published file, and unused there
        self.W_e, self.W_s = nn.Linear(WIDTH, WIDTH), nn.Embedding(len(ALPHABET), WIDTH)
        self.encoder_layers: Any = nn.ModuleList(Encoder(WIDTH) for _ in range(3))
        self.decoder_layers: Any = nn.ModuleList(Decoder(WIDTH, 3 * WIDTH) for _ in range(3))
        self.W_out = nn.Linear(WIDTH, len(ALPHABET))

    def encode(self, x: Tensor, real: Tensor) -> Graph:
        if x.ndim != 3 or x.shape[-1] != 3 or real.shape != x.shape[:2]:
            raise InputError(
                f"traces [B, L, 3] and their mask [B, L] are needed, got shapes {tuple(x.shape)} and"
                f" {tuple(real.shape)}"
            )
        weight = real[..., None].to(x.dtype)
        x = (x - (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)) * weight
        edge, index = self.features(x, real)
        edge, node, near = self.W_e(edge), x.new_zeros(*x.shape[:2], WIDTH), gather(weight, index)
        for layer in self.encoder_layers:
            node = layer(node, layer.block(1, edge) + gather(layer.block(-1, node), index), near) * weight
            edge = layer.renew(node, edge, index)
        return Graph(node, edge, index, near, weight)

    def log_probs(self, x: Tensor, sequence: Tensor, order: Tensor, real: Tensor) -> Tensor:
        """log p of all letters at each residue, [B, L, 21], given the residues of `sequence` [B, L] that come before
        it.

        order: [B, L], order[b, t] is the place decoded at time t.
        """
        graph = self.encode(x, real)
        when = order.argsort(1)
        before = (gather(when[..., None], graph.places)[..., 0] < when[..., None])[..., None]
        node = graph.node
        for layer in self.decoder_layers:
            # a residue yet to come shows its geometry alone, one before it its letter and what it has become
            now = layer.block(2, self.W_s(sequence)) + layer.block(-1, node)
            first = gather(layer.block(-1, graph.node), graph.places)
            shown = layer.block(1, graph.edge) + torch.where(before, gather(now, graph.places), first)
            node = layer(node, shown, graph.near) * graph.real
        return self.W_out(node).log_softmax(-1)

    def sample(self, x: Tensor, order: Tensor, real: Tensor, uniform: Tensor, temperature: float = 0.1) -> Design:
        """Write a sequence: letters are drawn from p^(1/temperature), X left out, by the numbers `uniform` [B, L] in
        (0, 1)."""
        if temperature <= 0:
            raise InputError(f"the temperature must be above 0, got {temperature:g}")
        graph = self.encode(x, real)
        b, length = real.shape
        rows = torch.arange(b, device=x.device)
        edges = [layer.block(1, graph.edge) for layer in self.decoder_layers]
        # what each residue shows to its neighbours, layer by layer: its geometry, until it is decoded
        shows = [layer.block(-1, graph.node) for layer in self.decoder_layers]
        out = Design(order.new_full((b, length), len(ALPHABET) - 1), x.new_zeros(b, length))
        for t in range(length):
            i = order[:, t]
            index, near, node = graph.places[rows, i], graph.near[rows, i], graph.node[rows, i]
            inputs = []
            for layer, edge, show in zip(self.decoder_layers, edges, shows, strict=True):
                inputs.append(node)
                node = layer(node, edge[rows, i] + gather(show, index), near)
            log_p = self.W_out(node).log_softmax(-1)
            share = (log_p[:, :-1] / temperature).softmax(-1).cumsum(-1)
            pick = (share < uniform[rows, i, None] * share[:, -1:]).sum(-1).clamp_max(len(ALPHABET) - 2)
            out.sequence[rows, i], out.log_prob[rows, i] = pick, log_p[rows, pick]
            for layer, show, own in zip(self.decoder_layers, shows, inputs, strict=True):
                show[rows, i] = layer.block(2, self.W_s(pick)) + layer.block(-1, own)
        return Design(torch.where(real, out.sequence, len(ALPHABET) - 1), out.log_prob * real)


def load_mpnn(path: str | Path = WEIGHTS) -> CAMPNN:
    """The network with the bundled weights (stored in half precision), or those of another safetensors file of the same
    names."""
    net = CAMPNN()
    try:
        check_header(Path(path))
        net.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    except Exception as error:  # safetensors, OS and torch each have their own
        raise CheckpointError(
            f"{path} does not hold the CA-only ProteinMPNN: {str(error).splitlines()[-1].strip()}"
        ) from error
    return net.eval().requires_grad_(False)


@cache
def bundled() -> CAMPNN:
    return load_mpnn()


def pad(chains: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Traces [L_i, 3] -> x [B, L, 3] with zeros at the end, real [B, L]."""
    x = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(np.asarray(c, np.float32)) for c in chains], batch_first=True)
    return x, torch.arange(x.shape[1]) < torch.tensor([len(c) for c in chains])[:, None]


def upright(x: np.ndarray) -> np.ndarray:
    """A trace [L, 3] centred and turned, never mirrored, to its principal axes, each pointing to the longer tail (third
    moment > 0)."""
    x = np.asarray(x, np.float64) - np.mean(x, 0)
    axes = np.linalg.svd(x, full_matrices=False)[2]
    axes[:2] *= np.where(((x @ axes[:2].T) ** 3).sum(0) < 0, -1.0, 1.0)[:, None]
    axes[2] = np.cross(axes[0], axes[1])
    return x @ axes.T


def encode_sequence(letters: str) -> Tensor:
    """Letters -> places in `ALPHABET`; what is not in it is X."""
    return torch.tensor([ALPHABET.find(c) if c in ALPHABET else len(ALPHABET) - 1 for c in letters])


def draw_orders(lengths: Sequence[int], keys: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """For each chain a random order of decoding and the uniform numbers of its letters, [B, L] each, from its own key
    alone."""
    longest = max(lengths)
    order, uniform = torch.arange(longest).repeat(len(lengths), 1), torch.full((len(lengths), longest), 0.5)
    for b, (n, key) in enumerate(zip(lengths, keys, strict=True)):
        g = generator(*key)
        order[b, :n] = torch.rand(n, generator=g, dtype=torch.float64).argsort()
        uniform[b, :n] = torch.rand(n, generator=g, dtype=torch.float64).to(uniform.dtype)
    return order, uniform


@torch.no_grad()
def plausibility(
    chains: Sequence[np.ndarray],
    *,
    model: CAMPNN | None = None,
    temperature: float = 0.1,
    seed: int = 0,
    batch: int = 8,
) -> tuple[np.ndarray, list[str]]:
    """One sequence for each trace [L_i, 3] (angstrom), and its mean NLL in nats a residue at T = 1: (NLL [N],
    sequences).

    The order of decoding and the letters of chain i come from (seed, i). Chains of similar length share a batch.
    """
    net = bundled() if model is None else model
    nll, sequences = np.empty(len(chains)), [""] * len(chains)
    device = next(net.parameters()).device
    by_length = sorted(range(len(chains)), key=lambda i: len(chains[i]))
    for start in range(0, len(chains), batch):
        part = by_length[start : start + batch]
        lengths = [len(chains[i]) for i in part]
        x, real = pad([upright(chains[i]) for i in part])
        order, uniform = draw_orders(lengths, [(seed, i) for i in part])
        design = net.sample(x.to(device), order.to(device), real.to(device), uniform.to(device), temperature)
        for row, i in enumerate(part):
            nll[i] = -float(design.log_prob[row, : lengths[row]].mean())
            sequences[i] = "".join(ALPHABET[k] for k in design.sequence[row, : lengths[row]].tolist())
    return nll, sequences
