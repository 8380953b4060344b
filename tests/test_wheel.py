import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*words: object, **options: object) -> str:
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)  # type: ignore
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_an_installed_wheel_works_outside_the_tree(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="builds the wheel without the network")
    source, site, elsewhere = (tmp_path / name for name in ("source", "site", "elsewhere"))
    for folder in (source, elsewhere):
        folder.mkdir()
    # A copy, so that the build leaves nothing in the tree and takes nothing but what belongs to the package.
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "nbrl"):
        run("cp", "-r", ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("nbrl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    tree = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nbrl").rglob("*")
        if path.suffix in (".py", ".csv", ".typed")
    }  # fmt: skip
    assert packed == tree
    run(*pip, "install", "--no-deps", "--target", site, wheel)

    variables = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    outside = {"cwd": elsewhere, "env": variables}
    assert Path(run(sys.executable, "-c", "import nbrl; print(nbrl.__file__)", **outside).strip()).is_relative_to(site)
    assert run(site / "bin" / "nbrl", "--version", **outside).startswith("nbrl ")
    run(site / "bin" / "nbrl", "train", "Catch-v0", "--steps", "2000", "--out", "run", **outside)
    evaluation = json.loads(run(site / "bin" / "nbrl", "eval", "run", "--episodes", "2", "--json", **outside))
    assert evaluation["episodes"] == 2
