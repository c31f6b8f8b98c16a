"""The working state of a fit, `state.pt`: what each field must be, and how a fit takes it up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deft.errors import CheckpointError
from deft.io.cards import is_count, is_number
from deft.io.reading import reason_of

WAY_OUT = "give what it was made with to resume, or another --out to start again"


def resume_from(
    path: Path | None, state: dict[str, Any], module: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Put a state's weights into a module, its average and its optimiser.

    Raises `CheckpointError`: they are of another network, or of none.
    """
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimiser.param_groups]
    learned = {name for name, p in module.named_parameters() if p.requires_grad}
    try:
        for of, name in ((module, "raw"), (average, "ema")):
            missing = learned - set(state[name])
            if missing:
                raise ValueError(f"{name} lacks {min(missing)}")
            odd = [k for k in learned if not bool(torch.isfinite(state[name][k]).all())]
            if odd:
                raise ValueError(f"{name} holds NaN or infinite weights in {odd[0]}")
            of.load_state_dict(of.state_dict() | state[name])  # an earlier version's state may lack a buffer
        optimiser.load_state_dict(state["optimiser"])
        for group, settings in zip(optimiser.param_groups, own, strict=True):
            group.update(settings)  # they are this fit's, which are known to be the same
        if state["step"] and not optimiser.state:
            raise ValueError("its optimiser has not begun")
        for parameter, about in optimiser.state.items():
            if set(about) != {"step", "exp_avg", "exp_avg_sq"}:
                raise ValueError(f"its optimiser keeps {', '.join(sorted(map(str, about)))[:80] or 'nothing'}")
            for key, value in about.items():
                wanted = () if key == "step" else tuple(parameter.shape)
                if tuple(torch.as_tensor(value).shape) != wanted or not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{key} of its optimiser is no tensor of finite numbers of shape {wanted}")
    except Exception as error:  # of another network, or of values of other kinds
        raise CheckpointError(f"{path} is of another network: {reason_of(error)}; {WAY_OUT}") from error


def check_state(path: Path, state: dict[str, Any], usual: Any) -> None:
    """Refuse a `state.pt` whose fields are of other types than a fit writes. usual: a `FitConfig`.

    Raises `CheckpointError` with the first that is.
    """
    best, last = state.get("best"), state.get("last")
    numbers = {"start", "length", "rate", "evaluated"}
    right = {
        "config": isinstance(state["config"], dict)
        and all(_is_setting(v, getattr(usual, k, None)) for k, v in state["config"].items()),
        "identity": isinstance(state.get("identity", {}), dict),
        "step": is_count(state["step"]),
        "elapsed": is_number(state["elapsed"]) and state["elapsed"] >= 0,
        "evaluated": is_count(state.get("evaluated", 0)),
        "history": isinstance(state["history"], list) and all(map(is_row, state["history"])),
        "raw": are_weights(state["raw"]),
        "ema": are_weights(state["ema"]),
        "optimiser": isinstance(state["optimiser"], dict),
        "best": best is None
        or (
            isinstance(best, dict)
            and best.get("weights") in ("raw", "ema")
            and is_count(best.get("step"))
            and is_row({k: v for k, v in best.items() if k not in ("state", "weights")})
            and best["weights"] in best
            and are_weights(best.get("state"))
        ),
        "last": last is None or (isinstance(last, dict) and numbers <= set(last) and is_row(last)),
    }
    for name, fine in right.items():
        if not fine:
            raise CheckpointError(
                f"{path} is damaged: {name} is {state[name]!r:.60}, which no fit writes; start again without --resume"
            )


def _is_setting(value: object, usual: object) -> bool:
    """Whether a value is of the type of the usual one."""
    if isinstance(usual, (bool, str)):
        return type(value) is type(usual)
    if isinstance(usual, int):
        return is_count(value)
    if isinstance(usual, float):
        return is_number(value)
    return value is None or isinstance(value, (bool, str)) or is_number(value)


def is_row(value: object) -> bool:
    """Names and numbers; of a loss that was not measured NaN."""
    return isinstance(value, dict) and all(
        isinstance(k, str) and (isinstance(v, float) or is_number(v)) for k, v in value.items()
    )


def are_weights(value: object) -> bool:
    """Names and tensors, some at least. Buffers may hold infinities, where nothing was measured yet."""
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
