"""docs/old-names.md, made from the tables of `deft._old_names`: `python -m tests.old_names > docs/old-names.md`."""

from __future__ import annotations

from deft._old_names import MODULES, NAMES

INTRODUCTION = """\
# Old names

Modules and names of version 0.1 that are elsewhere now. Each works for one more release; Python
then shows a `DeprecationWarning` that says the new name (run with `python -W default` to see them
all). Most of what a program needs is in `import deft` itself: `deft.DDIM`, `deft.load_prior`,
`deft.tasks.Inpaint`.

`deft.sample` is the function that draws samples; the package of that name is `deft.samplers`.
"""


def page() -> str:
    lines = [INTRODUCTION, "## Modules", "", "| old | new |", "|---|---|"]
    lines += [f"| `deft.{old}` | {', '.join(f'`deft.{n}`' for n in new.split())} |" for old, new in sorted(MODULES.items())]
    lines += ["", "## Single names", "", "| old | new |", "|---|---|"]
    lines += [f"| `deft.{old}` | `deft.{new}` |" for old, new in sorted(NAMES.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page())
