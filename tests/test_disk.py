"""What is promised of files: after a kill, on a full disk, after a power cut, with two processes, for any path."""

from __future__ import annotations

import ast
import errno
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import deft
from deft.cli import cli
from deft.cli.protein import SCAFFOLDS
from deft.cli.running import _advice, _command
from deft.errors import InputError, OutputError
from deft.io import claims, files
from deft.io.arrays import save_arrays
from deft.io.claims import LOCK, claimed
from deft.io.files import is_of_deft, make_folder, save_state, save_weights, unfinished, write_atomic, write_text
from deft.io.folders import files_of, own_folder, part_of_folder
from deft.runtime.distributed import World
from deft.workflow.sampling import OUTPUTS as SAMPLE
from toys import pictures, refused, run, save_pictures, toy_prior

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, flock and limits of POSIX")
LONG = "x" * 300
NOISE = torch.randn(100_000, generator=torch.Generator().manual_seed(0))


@contextmanager
def small_disk(limit: int = 30_000) -> Iterator[None]:
    """No file of this process may be larger: what a full disk does to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A prior, pictures, a photo with its mask."""
    here = tmp_path_factory.mktemp("disk")
    toy_prior(here / "prior.safetensors")
    save_pictures(here / "good", pictures(24))
    Image.fromarray(pictures(1)[0]).save(here / "photo.png")
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:10, 4:10] = 0
    Image.fromarray(mask).save(here / "mask.png")
    return here


def fit_line(shop: Path, out: Path, *more: object) -> list[object]:
    line = ["fit", "--prior", shop / "prior.safetensors", "--data", shop / "good", "--size", 0.4, "--steps", 2]
    return [*line, "--batch", 4, "--bank", 0, "--prior-samples", 0, "--out", out, *more]


def sample_line(shop: Path, out: Path, *more: object) -> list[object]:
    seen = ["--measurement", shop / "photo.png", "--mask", shop / "mask.png", "--steps", 2]
    return ["sample", "--prior", shop / "prior.safetensors", "--method", "pigdm", *seen, "--out", out, *more]


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# a full disk


WRITERS = {
    "state": lambda p: save_state(p, {"a": NOISE}),
    "weights": lambda p: save_weights(p, {"w": NOISE}, {}),
    "text": lambda p: write_text(p, "x" * 100_000),
    "arrays": lambda p: save_arrays(p.with_suffix(".npz"), x=NOISE),
    "picture": lambda p: write_atomic(
        p, lambda q: Image.fromarray(NOISE.view(torch.uint8)[:90_000].view(300, 300).numpy()).save(q, format="PNG")
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_line_for_every_writer(tmp_path, kind):
    path = tmp_path / ("h.npz" if kind == "arrays" else "h.bin")
    path.write_bytes(b"before")
    with small_disk(), pytest.raises(OutputError, match=r"cannot write .*File too large; free some space"):
        WRITERS[kind](path)
    assert path.read_bytes() == b"before" and names(tmp_path) == {path.name}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_the_system_refuses_is_named(tmp_path, monkeypatch, number):
    """Of the writer, of the last step, and of the folder."""
    failure = OSError(number, os.strerror(number))

    def fails(*arguments: object) -> None:
        raise failure

    with pytest.raises(OutputError, match=os.strerror(number)):
        write_atomic(tmp_path / "a", fails)
    for name in ("replace", "open", "fsync"):
        with monkeypatch.context() as patch, pytest.raises(OutputError, match=os.strerror(number)):
            patch.setattr(files.os, name, fails)
            write_text(tmp_path / "a", "text")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), ValueError("a bug"), RuntimeError("a bug")])
def test_a_writers_own_fault_stays_what_it_is(tmp_path, error):
    def fails(path: Path) -> None:
        path.write_text("a part")
        raise error

    with pytest.raises(type(error), match="a bug"):
        write_atomic(tmp_path / "a", fails)
    assert names(tmp_path) == set()


def test_a_fit_on_a_full_disk(shop, tmp_path, capsys):
    with small_disk(200_000):
        line = refused(capsys, *fit_line(shop, tmp_path / "o"))
    assert "state.pt: File too large; free some space; or give another --out" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_that_cannot_be_written():
    for command in ("list", "--help"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "deft", command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("error: cannot write standard output: No space left on device")


# a power cut


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """The order of calls: written, synced, renamed, and then the folder synced."""
    calls: list[str] = []
    sync, replace = files.os.fsync, files.os.replace

    def watched_sync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"file of {os.fstat(handle).st_size}")
        sync(handle)

    def watched_replace(a: object, b: object) -> None:
        calls.append("renamed")
        replace(a, b)

    monkeypatch.setattr(files.os, "fsync", watched_sync)
    monkeypatch.setattr(files.os, "replace", watched_replace)
    write_text(tmp_path / "a", "four")
    assert calls == ["file of 4", "renamed", "folder"]
    calls.clear()
    with files.on_disk_together():
        write_text(tmp_path / "b", "four")
        write_text(tmp_path / "c", "four")
        assert calls == ["renamed", "renamed"]
    assert calls[2:] == ["file of 4", "file of 4", "folder"]
    calls.clear()
    make_folder(tmp_path / "d" / "e")
    assert calls == ["folder", "folder"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_is_respected(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        for kind, write in WRITERS.items():
            write(tmp_path / kind)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {mode} and len(names(tmp_path)) == 5


# unfinished files


def test_only_what_the_dead_left_is_removed(tmp_path, monkeypatch):
    """A living process's file stays, whatever its target; another machine's while it is young; a user's always."""
    dead = subprocess.run(
        [sys.executable, "-c", "from deft.io.claims import mark; print(mark())"], stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    other = "0" * 8 + claims.mark()[8:]
    made = {
        "dead": f".h.bin.{dead.strip()}.00000000.part.bin",
        "number used again": f".h.bin.{claims.mark()}1.00000001.part.bin",
        "alive": f".h.bin.{claims.mark()}.00000002.part.bin",
        "another machine": f".h.bin.{other}.00000003.part.bin",
        "another machine, old": f".h.bin.{other}.00000004.part.bin",
        "a user's": ".h.bin.part.bin",
        "as version 0.1.0 named them": ".h.bin.ab12cd34.bin",
    }
    for name in made.values():
        (tmp_path / name).write_text("a part")
    os.utime(tmp_path / made["another machine, old"], (0, time.time() - 2 * claims.STALE))
    assert {p.name for p in unfinished(tmp_path)} == {
        made[k] for k in ("dead", "number used again", "another machine, old")
    }
    write_text(tmp_path / "h.bin", "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"h.bin"} | {
        made[k] for k in ("alive", "another machine", "a user's", "as version 0.1.0 named them")
    }


# two processes


def other_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "ready"
    return child


HOLDS = """
import sys
from deft.io.claims import claimed
with claimed(sys.argv[1], what="fit"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_the_second_process_is_told_who_is_first_until_it_dies(shop, tmp_path, capsys):
    """Every command that writes; and after kill -9 nothing is in the way."""
    run_folder = tmp_path / "run"
    assert run(capsys, *fit_line(shop, run_folder))[0] == 0
    before = names(run_folder)
    first = other_process(HOLDS, run_folder)
    try:
        tiny = tmp_path / "tiny.toml"
        tiny.write_text(
            f"images = 2\nsamples = 1\n[tune]\nimages = 2\nbudget = 4\nsteps = [4]\n[[on]]\n"
            f'prior = "{shop / "prior.safetensors"}"\ndata = "{shop / "good"}"\ntasks = ["denoise"]\n'
            'entries = ["pigdm"]\n'
        )
        prior, data = ("--prior", shop / "prior.safetensors"), ("--data", shop / "good")
        train = ("prior", "train", *data, "--widths", "8,8", "--steps", 2, "--batch", 4, "--out", run_folder)
        lines = [
            fit_line(shop, run_folder, "--overwrite"),
            fit_line(shop, run_folder, "--resume"),
            sample_line(shop, run_folder, "--overwrite"),
            ["evaluate", *prior, *data, "--methods", "pigdm", "--steps", 2, "--out", run_folder, "--overwrite"],
            [*train, "--overwrite"],
            ["demo", "--quick", "--out", run_folder, "--overwrite"],
            ["compare", tiny, "--out", run_folder],
            ["compare", tiny, "--out", run_folder, "--part", "1/2"],
            ["calibrate", run_folder, "--images", 4, "--samples", 2],
            ["hub", "export", run_folder, "--out", run_folder, "--overwrite"],
        ]
        for line in lines:
            said = refused_last(capsys, *line)
            assert f"is in use by process {first.pid} on " in said and " since 20" in said, said
            assert ("or give another --out" in said) == ("--out" in line), said
        assert names(run_folder) == before | {LOCK}
        # reading is not in the way
        drawn = ["sample", run_folder, "--measurement", shop / "photo.png", "--mask", shop / "mask.png", "--steps", 2]
        assert run(capsys, *drawn, "--out", tmp_path / "s")[0] == 0
    finally:
        first.kill()
        first.wait()
    assert LOCK in names(run_folder)
    assert run(capsys, *fit_line(shop, run_folder, "--resume", "--steps", 3))[0] == 0
    assert names(run_folder) == before


def refused_last(capsys, *line: object) -> str:
    """The one line of a command that is refused after it has said how it is going."""
    code, _, err = run(capsys, *line)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and "Traceback" not in err, err
    return last


PART = """
import sys
from pathlib import Path
from deft.io.folders import part_of_folder
with part_of_folder(Path(sys.argv[1]), "compare", int(sys.argv[2]), int(sys.argv[3])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_parts_of_a_comparison_share_their_folder(tmp_path):
    """Other parts of the same number come in; the same part, the whole, and a part of another number do not."""
    first = other_process(PART, tmp_path, 0, 2)
    try:
        with part_of_folder(tmp_path, "compare", 1, 2):
            pass
        for part, parts in ((0, 2), (0, 1), (2, 3)):
            refusal = pytest.raises(OutputError, match=f"in use by process {first.pid}")
            with refusal, part_of_folder(tmp_path, "compare", part, parts):
                pass
    finally:
        first.kill()
        first.wait()
    with part_of_folder(tmp_path, "compare", 0, 1):
        pass
    assert LOCK not in names(tmp_path)


def test_without_flock_the_file_is_the_lock(tmp_path, monkeypatch):
    """A process that is alive holds it; a dead one, and one of nobody, does not."""
    monkeypatch.setattr(claims, "fcntl", None)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = {"pid": child.pid, "host": "here", "machine": claims.mark().split(".")[0]}
    (tmp_path / LOCK).write_text(json.dumps(who | {"started": claims._started(child.pid)}) + "\n")
    with pytest.raises(OutputError, match=f"in use by process {child.pid}"), claimed(tmp_path):
        pass
    child.kill()
    child.wait()
    for text in (json.dumps(who | {"started": "1"}), "no JSON", ""):
        (tmp_path / LOCK).write_text(text)
        with claimed(tmp_path), claimed(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text().splitlines()[0])["pid"] == os.getpid()
        assert names(tmp_path) == set()


def test_who_holds_a_folder_is_printed_plainly(tmp_path):
    """The lock's file is somebody else's text."""
    with claimed(tmp_path):
        bad = {"pid": 1, "host": "a\x1b[31mb", "since": "x" * 900, "command": "\r\nnew"}
        (tmp_path / LOCK).write_text(json.dumps(bad))
        said = str(claims.in_use(tmp_path, claims._read(tmp_path / LOCK)[0]))
    assert said.isprintable() and len(said) < 500


# --overwrite


def test_overwrite_leaves_nothing_of_the_earlier_run(shop, tmp_path, capsys):
    """Samples: fewer than before, of a run that ended and of one that was killed; a user's files stay."""
    out = tmp_path / "s"
    assert run(capsys, *sample_line(shop, out, "-n", 5))[0] == 0
    own = ["notes.txt", "sample-777.png", "sample-001.txt", "mean-of-mine.png"]
    for name in own:
        (out / name).write_text("mine")
    assert "not empty" in refused(capsys, *sample_line(shop, out, "-n", 2))
    assert run(capsys, *sample_line(shop, out, "-n", 2, "--overwrite"))[0] == 0
    usual = {"sample-000.png", "sample-001.png", "mean.png", "spread.png", "sheet.png", "samples.npz", "sample.json"}
    assert names(out) == usual | set(own)
    # killed: no sample.json, and the lock's file lists what was written
    (out / "sample.json").unlink()
    lines = [json.dumps({"what": "sample"}), *map(json.dumps, ("sample-008.png", "../../mine.png", "/etc/mine"))]
    (out / LOCK).write_text("\n".join(lines) + "\n")
    (out / "sample-008.png").write_text("a part")
    (tmp_path / "mine.png").write_text("mine")
    assert run(capsys, *sample_line(shop, out, "-n", 2, "--overwrite"))[0] == 0
    assert names(out) == usual | set(own) and (tmp_path / "mine.png").exists()


def test_overwrite_of_a_fit_removes_its_state_before_anything_is_fitted(shop, tmp_path, capsys, monkeypatch):
    """Killed before its first save, a new fit is not resumed from the old one's state."""
    out = tmp_path / "run"
    assert run(capsys, *fit_line(shop, out))[0] == 0
    for name in (
        "round-1/state.pt",
        "round-1/mine.txt",
        "prior-samples/prior-samples-0123456789ab-0000000.safetensors",
    ):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("old")
    shutil.copy(out / "state.pt", out / "round-1/state.pt")
    shutil.copy(out / "h.safetensors", out / "prior-samples/prior-samples-0123456789ab-0000000.safetensors")
    (out / "sample-000.png").write_text("of deft sample")

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deft.recipe.fit.fit", killed)
    assert run(capsys, *fit_line(shop, out, "--overwrite", "--seed", 1))[0] == 130
    assert names(out) == {"round-1/mine.txt", "sample-000.png", "sizes.json"}
    monkeypatch.undo()
    assert run(capsys, *fit_line(shop, out, "--resume", "--seed", 1))[0] == 0


def test_tensors_of_other_programs_are_not_removed(shop, tmp_path, capsys):
    """A folder of the user's, in which names are as those of a fit; every file that a fit of 0.1 left is known."""
    out = tmp_path / "home"
    (out / "round-1").mkdir(parents=True)
    torch.save({"step": 3, "model": torch.zeros(3)}, out / "round-1/state.pt")
    save_file({"w": torch.zeros(3)}, out / "h.safetensors")
    for name in ("h.safetensors", "round-1/state.pt"):
        before = names(out)
        said = refused_last(capsys, *fit_line(shop, out, "--overwrite"))
        assert f"home/{name} is not known as a file of deft's, and --overwrite would remove it" in said
        assert names(out) == before
        (out / name).unlink()
    assert run(capsys, *fit_line(shop, out, "--overwrite"))[0] == 0
    old = Path(__file__).parent / "data"
    found = [p for p in old.rglob("*") if p.suffix in (".pt", ".safetensors") and "v0.1" in str(p)]
    assert len(found) > 20 and all(map(is_of_deft, found))


def test_what_a_command_reads_is_not_removed_for_it(shop, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(capsys, *fit_line(shop, out))[0] == 0
    before = {n: (out / n).read_bytes() for n in names(out)}
    line = [a for a in fit_line(shop, out, "--overwrite", "--start-from", out) if a not in ("--size", 0.4)]
    assert "is read by this command, and --overwrite would remove it: give another --out" in refused_last(capsys, *line)
    # h of the run is no file of `deft sample`
    drawn = ["sample", out, "--measurement", shop / "photo.png", "--mask", shop / "mask.png", "-n", 2, "--steps", 2]
    assert run(capsys, *drawn, "--out", out, "--overwrite")[0] == 0
    assert {n: (out / n).read_bytes() for n in before} == before


def test_names_in_other_peoples_lists_lead_nowhere(tmp_path):
    """sample.json and scaffold.json are read before anything is removed, and may be a stranger's."""
    home, away = tmp_path / "out", tmp_path / "away"
    home.mkdir(), away.mkdir()
    (away / "scaffold-000.pdb").write_text("mine"), (home / "notes.txt").write_text("mine")
    (home / "link").symlink_to(away)
    bad = ["../away/scaffold-000.pdb", "link/scaffold-000.pdb", str(away / "scaffold-000.pdb"), "notes.txt", 3, None]
    (home / "sample.json").write_text(json.dumps({"files": bad, "samples": 10**9}))
    (home / "scaffold.json").write_text(json.dumps({"scaffolds": [{"file": b} for b in bad]}))
    assert files_of(home, SAMPLE, [b for b in bad if isinstance(b, str) and b != "notes.txt"]) == [home / "sample.json"]
    assert files_of(home, SCAFFOLDS) == [home / "scaffold.json"]
    for text in ("[" * 100_000, "[]", '{"files": 3}', "\xff", ""):
        (home / "sample.json").write_text(text)
        assert files_of(home, SAMPLE) == [home / "sample.json"]


def test_files_of_version_0_1_0_are_known(tmp_path):
    (tmp_path / "sample.json").write_text(json.dumps({"samples": 2}))
    for name in ("sample-000.png", "sample-001.png", "sample-002.png", "mean.png"):
        (tmp_path / name).write_text("")
    assert {p.name for p in files_of(tmp_path, SAMPLE)} == {
        "sample.json", "sample-000.png", "sample-001.png", "mean.png",
    }  # fmt: skip


# signals


FIT_IN_A_CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from deft.cli import main
from deft.train.data import Clean
draw, calls = Clean.draw, []
def at(self, size, seed, step, device, **options):
    if step == 3:
        print("ready", flush=True)
    return draw(self, size, seed, step, device, **options)
Clean.draw = at
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_sigterm_does_and_says_what_ctrl_c_does(shop, tmp_path, number, code):
    arguments = [str(a) for a in fit_line(shop, tmp_path / "run", "--steps", 10**6, "--patience", 0)]
    child = subprocess.Popen(
        [sys.executable, "-c", FIT_IN_A_CHILD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    while child.stdout.readline().strip() != "ready":
        assert child.poll() is None, child.stderr and child.stderr.read()
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    last = err.strip().splitlines()[-1]
    assert child.returncode == code and "Traceback" not in err
    assert last.startswith("stopped at step ") and last.endswith("--resume") and "resume with: deft fit" in last
    assert names(tmp_path / "run") == {"state.pt", "sizes.json"}


def test_an_interrupt_in_the_guise_of_another_error(monkeypatch, capsys):
    """As Python has one that comes while a class is made, during an import: before a command runs, and in it."""

    def interrupted(*arguments: object) -> int:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    for place in ("deft.cli.running._on_each", "deft.cli._main"):
        monkeypatch.setattr(place, interrupted)
        assert run(capsys, "info", "x") == (130, "", "stopped\n")


ENDS = """
import atexit, ctypes, deft.cli
def interrupted(arguments):  # inside Python code that C runs
    ctypes.pythonapi.PyRun_String.restype = ctypes.py_object
    names = ctypes.py_object({})
    ctypes.pythonapi.PyRun_String(b"raise KeyboardInterrupt", 257, names, names)
deft.cli._main = interrupted
atexit.register(print, "at exit")
deft.cli.entry()
"""


def test_the_exit_code_is_ours_wherever_the_interrupt_came(tmp_path):
    """And not Python's own end by SIGINT, also after SIGTERM."""
    (tmp_path / "ends.py").write_text(ENDS)
    done = subprocess.run([sys.executable, "-m", "ends"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "at exit\n", "stopped\n")


WORKER = """
import os, sys, time
from deft.bench.runner import _begin
me = os.getpid()
child = os.fork()
if not child:
    _begin(1, me)
    print(os.getpid(), flush=True)
    time.sleep(60)
print("ready", flush=True)
sys.stdin.read()
"""


def test_processes_of_a_comparison_end_with_their_parent():
    """Also with one that is killed: nobody goes on in a folder that is free by then."""
    parent = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(next(line for line in (parent.stdout.readline(), parent.stdout.readline()) if line.strip().isdigit()))
    assert Path(f"/proc/{child}").exists() or sys.platform != "linux"
    parent.kill()
    parent.wait()
    started = time.monotonic()
    assert parent.stdout.read() == ""  # returns when the child, which has it too, has ended
    assert time.monotonic() - started < 20


def every_command() -> Iterator[tuple[list[str], click.Command]]:
    todo: list[tuple[list[str], click.Command]] = [([], cli)]
    while todo:
        path, command = todo.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                todo.append(([*path, name], found))
        if path:
            yield path, command


def test_the_advice_names_options_that_exist(tmp_path):
    """Of every command: whatever an advice tells to give, the command takes."""
    full = tmp_path / "full"
    full.mkdir(), (full / "a").write_text("")
    said = {}
    for path, command in every_command():
        out = ["--out", str(full)] if any("--out" in p.opts for p in command.params) else []
        assert _command(cli, [*path, *out])[0].name == command.name
        for saved in (False, True):
            said[" ".join(path), saved] = advice = _advice(cli, [*path, *out], World(), saved)
            known = {o for p in command.params for o in p.opts}
            assert {word for word in advice.split() if word.startswith("--")} <= known, advice
    assert said["compare", False] == f"resume with the same command: deft compare --out {full}"
    assert said["protein benchmark", True].startswith("resume with the same command: deft protein benchmark")
    assert said["demo", False] == f"start again with: deft demo --out {full} --overwrite"
    assert said["fit", True] == f"resume with: deft fit --out {full} --resume"
    assert said["fit", False] == f"start again with: deft fit --out {full} --overwrite"
    assert said["info", False] == said["list", False] == ""


# paths


def paths_of(command: click.Command) -> Iterator[click.Parameter]:
    for p in command.params:
        if type(p.type).__name__ in ("FilePath", "Source"):
            yield p


@pytest.mark.parametrize("bad", ["", LONG, "a\0b", f"{'d/' * 3000}x", "loop"])
def test_a_path_that_cannot_be_looked_for(tmp_path, monkeypatch, bad):
    """At every option that takes one: a message of that option, and no error of the system."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    count = 0
    for path, command in every_command():
        for p in paths_of(command):
            if not bad and p.default == "":  # which stands for none
                continue
            context = click.Context(command, info_name=" ".join(path))
            with pytest.raises(click.BadParameter) as caught:
                p.type.convert(bad, p, context)
            said = caught.value.format_message()
            assert p.opts[0].strip("-").replace("-", "_") in said.lower().replace("-", "_") or p.metavar in said
            assert len(said) < 400 and "\0" not in said
            count += 1
    assert count > 45


def test_every_option_for_a_path_is_checked():
    """An option whose help says file or folder has one of our types, unless its value is no path as a whole."""
    parts = {"--array", "--part", "--prior-option", "--rows", "--theta", "--name", "--about-data", "--variant"}
    plain = {
        p.opts[0]
        for _, command in every_command()
        for p in command.params
        if isinstance(p, click.Option)
        and p.type.name in ("path", "file", "text", "filename")
        and type(p.type).__name__ not in ("FilePath", "Source")
        and any(word in (p.help or "").lower() for word in ("file", "folder"))
    }
    assert plain <= parts, plain - parts


def test_commands_refuse_such_paths_in_one_line(shop, tmp_path, capsys):
    mask = sample_line(shop, tmp_path / "o")
    mask[mask.index("--mask") + 1] = LONG
    for line in (["info", LONG], ["compare", LONG], mask, fit_line(shop, tmp_path / LONG)):
        assert "File name too long" in refused(capsys, *line)
    assert "is empty" in refused(capsys, *fit_line(shop, ""))
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused_last(capsys, *fit_line(shop, tmp_path / "file" / "run"))


def test_an_error_of_the_system_at_a_path_is_one_line(shop, tmp_path, capsys, monkeypatch):
    """A folder that may not be entered, a file that may not be read, wherever it strikes."""

    def fails(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/locked/h.safetensors")

    monkeypatch.setattr("deft.cli.info.find_card", fails)
    assert refused(capsys, "info", "x") == "error: cannot use /locked/h.safetensors: Permission denied"
    real = os.stat

    def locked(path: object, *arguments: object, **options: object) -> os.stat_result:
        if "locked" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr("deft.cli.common.os.stat", locked)
    assert "locked/run: Permission denied" in refused(capsys, *fit_line(shop, tmp_path / "locked" / "run"))


def test_library_calls_hold_their_folder(tmp_path):
    """`fit_h` in Python, without the command line."""
    first = other_process(HOLDS, tmp_path)
    try:
        with pytest.raises(InputError, match=f"in use by process {first.pid}"):
            deft.fit_h("fashion", "denoise", None, folder=tmp_path, steps=1)
        with pytest.raises(InputError, match="in use"), own_folder(tmp_path, SAMPLE, overwrite=True):
            pass
    finally:
        first.kill()
        first.wait()


def writes(call: ast.Call) -> bool:
    """Whether a call writes, copies or moves a file by itself; a writer that is given its path, p, may."""
    f = call.func
    if isinstance(f, ast.Name) and f.id == "open" and len(call.args) > 1:
        return isinstance(call.args[1], ast.Constant) and bool(set("wax+") & set(str(call.args[1].value)))
    if not isinstance(f, ast.Attribute):
        return False
    owner = ast.unparse(f.value)
    given = {a.id for a in call.args if isinstance(a, ast.Name)}
    by_itself = owner != "p" and "p" not in given
    if f.attr in ("write_text", "write_bytes", "savefig", "mkdir", "touch", "tofile"):
        return by_itself
    return by_itself and (owner, f.attr) in {
        ("torch", "save"), ("np", "save"), ("np", "savez"), ("os", "replace"), ("os", "rename"), ("os", "makedirs"),
        ("shutil", "copy"), ("shutil", "copyfile"), ("shutil", "move"), ("tempfile", "NamedTemporaryFile"),
    }  # fmt: skip


def test_every_writer_goes_through_one_place():
    """No module of the library but those of `deft.io` writes, copies or moves a file by itself."""
    home = Path(deft.__file__).parent
    found = {
        f"{path.relative_to(home).as_posix()}: {ast.unparse(node.func)}"
        for path in home.rglob("*.py")
        if path.relative_to(home).as_posix() not in ("io/files.py", "io/claims.py", "io/folders.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and writes(node)
    }
    assert found == {
        "runtime/memory.py: Path('/proc/self/clear_refs').write_text",  # no file
        "diagnose/figures.py: figure.savefig",  # into memory
        "cli/running.py: open",  # os.devnull
        "cli/running.py: tempfile.NamedTemporaryFile",  # a traceback
    }
