"""The built wheel holds everything that the package needs, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as hatchling builds it from the tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """Modules, the catalogue and the mark of typing are in the wheel, and no tests, scripts or caches."""
    package = ROOT / "src"
    wanted = {
        file.relative_to(package).as_posix()
        for file in (package / "quartzite").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in held if ".dist-info/" not in name} == wanted
    assert {"quartzite/registry/catalog.toml", "quartzite/py.typed"} <= held


def test_the_wheel_runs_without_the_tree(wheel: Path) -> None:
    """The command line of the wheel, first on the path, finds its catalogue inside of it."""
    code = (
        f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
        "import quartzite; from quartzite.registry.catalog import catalog\n"
        "print(quartzite.__file__, len(catalog()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    file, count = ended.stdout.split()
    assert file.startswith(str(wheel))
    assert int(count) >= 9
