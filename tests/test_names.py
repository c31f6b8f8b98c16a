"""The public face: what `import deft` shows and what it costs, and names of 0.1 that have moved."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest

import deft
import old_names
from deft import _old_names
from deft._old_names import MODULES, NAMES, OldModule
from deft.cli import COMMANDS, cli
from deft.cli.group import LazyGroup

HERE = Path(__file__).parent
NAMES_0_1 = {
    module: names.split()
    for module, _, names in (line.partition(":") for line in (HERE / "names_0_1.txt").read_text().splitlines())
}
"""Module -> its public names in version 0.1: all modules, and the names of those that were not the commands' own."""

GONE: dict[str, str] = {
    "comparison.config.title_of": "a property of an entry: `Entry.label`",
    "train.adapter.load_any_h": "load_h loads an h of any kind of data",
    **{
        f"sample.{name}": "every way of drawing returns deft.Draws"
        for name in ("Chains", "Particles", "Paths", "hamiltonian.Chains", "path.Paths", "smc.Particles")
    },
    "methods.Told": "draws.diagnostics and draws.log_evidence, of what Plan.draw returns",
    "prior.options.KINDS": "a family's options stand with it: FAMILIES[name].options",
    "prior.options.GENIE_KINDS": "the same",
}
"""Names of 0.1 that have no successor -> why."""


@pytest.fixture
def told():
    """Old modules are new again, and their warnings are kept."""
    for name in MODULES:
        sys.modules.pop(f"deft.{name}", None)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


def module_of(name):
    return importlib.import_module("deft" if name == "deft" else f"deft.{name}")


# names of 0.1


@pytest.mark.parametrize("old", sorted(MODULES))
def test_an_old_module_is_found_and_says_where_it_is(told, old):
    module = module_of(old)
    assert isinstance(module, OldModule)
    new = [module_of(name) for name in MODULES[old].split()]
    for target in new:
        for name in _old_names._public(target)[:3]:
            assert getattr(module, name) is not None and name in dir(module)
    said = [
        str(w.message) for w in told if w.category is DeprecationWarning and str(w.message).startswith(f"deft.{old}")
    ]
    assert any(target.__name__ in text for text in said for target in new)


@pytest.mark.parametrize("old", sorted(NAMES))
def test_an_old_name_is_found_and_says_where_it_is(told, old):
    (module, _, name), (home, _, new) = old.rpartition("."), NAMES[old].rpartition(".")
    assert getattr(module_of(module), name) is getattr(module_of(home), new)
    (warning,) = [
        w
        for w in told
        if w.category is DeprecationWarning and f"deft.{old} is now deft.{NAMES[old]};" in str(w.message)
    ]
    assert warning.filename == __file__


@pytest.mark.parametrize("module", sorted(NAMES_0_1))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_public_name_of_0_1_is_still_there(module):
    missing = [
        name for name in NAMES_0_1[module] if f"{module}.{name}" not in GONE and not hasattr(module_of(module), name)
    ]
    assert not missing, f"add where they went to deft._old_names: {missing}"


def test_old_modules_are_those_that_are_gone():
    """A row for a module that is there again would never be asked for; one for a module of later versions is nobody's
    old name."""
    assert not [
        name for name in MODULES if importlib.util.find_spec(f"deft.{name}").loader.__class__ is not _old_names.Finder
    ]
    assert set(MODULES) <= set(NAMES_0_1)


def test_the_warning_points_at_the_users_line(told):
    exec(compile("from deft.noise import VPLinear\nfrom deft.htransform import DEFT\n", "users.py", "exec"), {})
    assert {w.filename for w in told} == {"users.py"}
    assert [w.lineno for w in told] == [1, 1, 2]
    assert "deft.htransform.DEFT is now deft.learned.DEFT" in str(told[-1].message)


def test_sample_is_a_function_and_an_old_package(told):
    from deft.sample import DDIM
    from deft.sample.smc import sample_smc

    assert DDIM is deft.DDIM and sample_smc is deft.sample_smc
    assert deft.sample is deft.samplers.sample and not isinstance(deft.sample, OldModule)
    from deft.condition import condition

    assert deft.condition is condition


def test_what_never_was_is_not_found(told):
    with pytest.raises(ImportError, match=r"cannot import name 'VPSquare'"):
        from deft.noise import VPSquare  # noqa: F401
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = deft.nonsense
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("deft.nonsense")


def test_the_page_of_old_names_is_that_of_the_tables():
    """Made by `python -m tests.old_names > docs/old-names.md`."""
    assert (HERE.parent / "docs" / "old-names.md").read_text() == old_names.page() + "\n"


# the face


def test_the_face_is_told_to_python_and_to_type_checkers_alike():
    tree = ast.parse(Path(deft.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")
    shown = {a.name: node.module.removeprefix("deft").lstrip(".") for node in block.body for a in node.names}
    table = {name: module for module, names in deft._WHERE.items() for name in names.split()}
    rooms = {name for name, module in shown.items() if not module}
    assert {name: module for name, module in shown.items() if module} == table
    assert set(deft.__all__) == {*shown, "__version__"}
    for name in deft.__all__:
        assert getattr(deft, name) is not None and name in dir(deft)
    assert all(getattr(deft, name) is sys.modules[f"deft.{name}"] for name in rooms)


def test_tasks_of_every_kind_of_data():
    from deft.kinds.domain import domains

    for domain in domains().values():
        for task in domain.tasks().values():
            assert getattr(deft.tasks, task.__name__) is task and task.__name__ in dir(deft.tasks)


# what it costs

LIGHT = """
import contextlib, io, json, sys, warnings
warnings.filterwarnings("error", message=".*is now deft", category=DeprecationWarning)
told = {}
def note(step):
    told[step] = [m for m in HEAVY if m in sys.modules]
import deft
deft.DeftError
note("import deft")
from deft.cli import main
text = io.StringIO()
with contextlib.redirect_stdout(text):
    main(["--help"])
    main(["--version"])
note("deft --help")
deft.sample, deft.DDIM, deft.fit, deft.DEFT, deft.load_prior, deft.tasks, deft.io
told["of a module"] = deft.nn.MLP.__name__
note("the face")
for name in deft.__all__:
    getattr(deft, name)
import deft.cli.common, deft.workflow
print(json.dumps(told))
"""
EXTRAS = [
    "diffusers",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "transformers",
    "accelerate",
    "huggingface_hub",
    "starlette",
    "uvicorn",
    "httpx",
    "matplotlib",
    "scipy",
    "skimage",
    "torchvision",
    "odl",
    "galaxygrad",
    "biotite",
    "pydicom",
    "nibabel",
    "h5py",
]


def test_what_is_imported_when():
    """`import deft` and `deft --help` need no PyTorch; what the face shows needs no extra, no picture and no command
    line; the library itself uses no old name."""
    heavy = ["torch", "numpy", "PIL", "deft.bench", "deft.testing", *EXTRAS]
    done = subprocess.run([sys.executable, "-c", f"HEAVY = {heavy}\n{LIGHT}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["import deft"] == told["deft --help"] == [] and told["of a module"] == "MLP"
    assert set(told["the face"]) <= {"torch", "numpy", "PIL"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_commands_are_what_the_list_says(name):
    """`deft --help` shows the first sentence of each command's help without importing the command."""
    command = cli.get_command(click.Context(cli), name)
    assert command.name == name and command.get_short_help_str(1000) == COMMANDS[name].about


def test_the_list_is_written_as_click_writes_it():
    plain = click.Group("deft", commands={name: cli.get_command(click.Context(cli), name) for name in COMMANDS})
    lazy = LazyGroup("deft", lazy=COMMANDS)
    shown = [group.get_help(click.Context(group, info_name="deft")) for group in (lazy, plain)]
    assert shown[0] == shown[1] and not lazy.commands


def test_files_that_pages_name_are_there():
    root = HERE.parent
    named = {
        (page.name, path)
        for page in (root / "README.md", *(root / "docs").glob("*.md"))
        for path in re.findall(r"(?:src/)?(deft/[\w/]+\.py)", page.read_text())
    }
    # files that a page has one make
    new = {
        path
        for page in (root / "docs").glob("*.md")
        for path in re.findall(r"^```python\n# src/(deft/[\w/]+\.py)$", page.read_text(), re.MULTILINE)
    }
    assert named and not [
        f"{page}: {path}" for page, path in sorted(named) if path not in new and not (root / "src" / path).exists()
    ]
