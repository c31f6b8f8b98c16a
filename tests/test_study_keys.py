"""Jobs of published studies keep their keys: what was drawn once, perhaps on a rented card, is found again by later
versions."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from deft.bench import jobs
from deft.bench import run as driver
from deft.bench.store import Store, make_job
from deft.bench.studies import read_study

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

ASKED = {
    "linear": (1782, "700232dc1f3310b31da57370acdeaa452123250b6db6ee7750e081a73a6daae4"),
    "nonlinear": (676, "2eca422da834056b1d7d0927655a8ae362c61a3922fc3c097c8427f0a6f5d5c1"),
}
"""Study -> (how many jobs it asks for with the jobs of its archive, sha256 of their keys and kinds). Those that version
0.1.0 asked for with a smaller archive (1,152 and 390) are among them under the same keys, but for those of six bundled
h, which were fitted anew since."""

LATER = ("ddnm", "mgps", "cpigdm", "flower")
"""Methods that the studies got after the archive was made. Jobs of theirs are left out of `ASKED`, whose numbers are
those from before: the new entries, at the end of each list, change no other job's key."""

ASKED_LATER = {
    "linear": (168, "3a13a25ad32f604949b3981af377a3bfbe7c238b56916b812c8d443686d03c48"),
    "nonlinear": (21, "bdd093461e520438e91c42951cc6406f6b5825d759602493db996fb39f4cbabb"),
}
"""The same of their jobs. Until one of them is published, a change of what is tried for these methods may change it."""


@pytest.mark.parametrize("name", ASKED)
def test_jobs_keep_their_keys(name, tmp_path, monkeypatch):
    """Every job of the archive is asked for under its name, and no other key has changed."""
    with tarfile.open(BENCHMARKS / "results" / name / "pieces.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    there, asked = {p.stem for p in tmp_path.glob("*/*.json")}, {}

    def noted(*arguments, **options):
        job = make_job(*arguments, **options)
        asked[job.key] = job
        return job

    monkeypatch.setattr(jobs, "make_job", noted)
    driver.run_study(read_study(BENCHMARKS / f"{name}.toml"), tmp_path, only_read=True, progress=False)
    assert len(there) > 600 and there <= set(asked)
    later = {key for key, job in asked.items() if job.settings.get("plan", {}).get("method") in LATER}
    for keys, pinned in ((asked.keys() - later, ASKED), (later, ASKED_LATER)):
        listed = "\n".join(sorted(f"{key} {asked[key].kind}" for key in keys))
        assert (len(keys), hashlib.sha256(listed.encode()).hexdigest()) == pinned[name]


def test_a_job_of_the_archive_is_read(tmp_path):
    """From its own spec the key of its file, and from its file the numbers."""
    with tarfile.open(BENCHMARKS / "results" / "nonlinear" / "pieces.tar.xz") as archive:
        member = next(m for m in archive if m.name.endswith("-1a7be0ef7191.json"))
        archive.extract(member, tmp_path, filter="data")
    store = Store(tmp_path)
    stored = json.loads((tmp_path / member.name).read_text())
    job = make_job(stored["kind"], stored["name"], stored["spec"])
    assert store.has(job) and store.missing([job]) == [] and len(store.read(job)["per_image"]["psnr"]) == 64
    assert store.missing([make_job(stored["kind"], stored["name"], {**stored["spec"], "seed": 1})])
