"""docs/old-names.md, made from the tables of `deft._old_names`: `python -m tests.old_names > docs/old-names.md`."""

from __future__ import annotations

from deft._old_names import MODULES, NAMES
from deft._renamed import ARGUMENTS, MEMBERS, VALUES

INTRODUCTION = """\
# Old names

Modules and names of version 0.1 that are elsewhere now. Each works for one more release; Python
then shows a `DeprecationWarning` that says the new name (run with `python -W default` to see them
all). Most of what a program needs is in `import deft` itself: `deft.DDIM`, `deft.load_prior`,
`deft.tasks.Inpaint`.

`deft.sample` is the function that draws samples; the package of that name is `deft.samplers`.
"""

MEMBERS_TEXT = """\
A call by the old name works, and so does a class of yours that defines a method or an attribute by
its old name; both warn. Cards and states that 0.1 wrote are read."""
FUNCTIONS = {
    "train.fit.fit": ("on_evaluation", "callback"),
    "core.operator.conjugate_gradient": ("most", "max_iterations"),
    "operator.external.from_deepinv": ("lift", "features"),
    "operator.external.from_odl": ("lift", "features"),
    "operator.separable.Separable": ("lift", "features"),
    "likelihood.external.observation_from_deepinv": ("lift", "features"),
    "train.importance.draw_round": ("least", "min_ess"),
    "train.importance.importance_fit": ("least", "min_ess"),
}
"""Function, or class -> an old argument and the new one: decorated with `old_arguments`."""


def page() -> str:
    lines = [INTRODUCTION, "## Modules", "", "| old | new |", "|---|---|"]
    lines += [
        f"| `deft.{old}` | {', '.join(f'`deft.{n}`' for n in new.split())} |" for old, new in sorted(MODULES.items())
    ]
    lines += ["", "## Single names", "", "| old | new |", "|---|---|"]
    lines += [f"| `deft.{old}` | `deft.{new}` |" for old, new in sorted(NAMES.items())]
    lines += [
        "",
        "## Methods, attributes and arguments",
        "",
        MEMBERS_TEXT,
        "",
        "| class | old | new |",
        "|---|---|---|",
    ]
    for kind, members in MEMBERS.items():
        lines += [f"| `deft.{kind}` | `{old}` | `{new}` |" for old, new in members.items()]
    for kind, names in ARGUMENTS.items():
        lines += [f"| arguments of `deft.{kind}` | `{old}=` | `{new}=` |" for old, new in names.items()]
    lines += [f"| arguments of `deft.{function}` | `{old}=` | `{new}=` |" for function, (old, new) in FUNCTIONS.items()]
    lines += [f'| settings of an h | `{name}="{old}"` | `{name}="{new}"` |' for (name, old), new in VALUES.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page())
