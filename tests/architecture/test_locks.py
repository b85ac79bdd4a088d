"""The locks hold what pyproject.toml asks for, and nothing that was left out on purpose."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
LOCKS = ("serve.txt", "dev.txt", "clients.txt")
NEVER_SERVED_WITH = ("torch", "transformers", "sentence-transformers", "triton", "pydantic", "pandas", "hf-xet")


def pins(name: str) -> dict[str, str]:
    """Return package → version of a lock."""
    lines = (REQUIREMENTS / name).read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([a-z0-9._-]+)==(\S+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_the_serving_lock_holds_every_dependency() -> None:
    """Each dependency of pyproject.toml is pinned at a version that it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = pins("serve.txt")
    wanted = [Requirement(text) for text in project["dependencies"]]
    assert wanted
    assert [str(one) for one in wanted if not one.specifier.contains(locked.get(one.name, "0"))] == []


def test_the_bundled_model_is_locked_at_the_version_that_the_catalogue_knows() -> None:
    """Lock and catalogue name the same package, for the catalogue holds the hashes of its files."""
    catalog = tomllib.loads((ROOT / "src/quartzite/registry/catalog.toml").read_text(encoding="utf-8"))
    requirement = Requirement(catalog["models"][0]["bundle"]["requirement"])
    assert str(requirement.specifier) == f"=={pins('serve.txt')[requirement.name]}"


def test_the_development_lock_extends_the_serving_lock() -> None:
    """What is tested is what is served with: the same versions, and more."""
    serving, development = pins("serve.txt"), pins("dev.txt")
    assert serving.items() < development.items()


def test_what_tests_import_is_declared() -> None:
    """No test stands on a package that is there only because another one happens to bring it."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    texts = [*told["project"]["dependencies"], *told["dependency-groups"]["dev"]]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    brought_by = packages_distributions()
    missing = {
        module
        for file in (ROOT / "tests").rglob("*.py")
        if "clients" not in file.parts and "node_modules" not in file.parts
        for module in _imported(file)
        if module in brought_by and not declared & {canonicalize_name(name) for name in brought_by[module]}
    }
    assert missing - {"quartzite"} == set()


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_clients_are_tested_against_what_is_served_with() -> None:
    """Packages that the clients share with the server have its versions; neither PyTorch nor OpenVINO is among them."""
    serving, clients = pins("serve.txt"), pins("clients.txt")
    assert {name: clients[name] for name in serving.keys() & clients.keys()}.items() <= serving.items()
    assert {"starlette", "msgspec", "litellm"} <= clients.keys()
    assert not {"torch", "transformers", "openvino"} & clients.keys()


def test_nothing_heavy_is_served_with() -> None:
    """Neither PyTorch nor anything of CUDA is in the serving lock."""
    names = pins("serve.txt").keys()
    assert not [name for name in names if name in NEVER_SERVED_WITH or name.startswith(("nvidia", "cuda"))]


def test_every_pin_is_verified() -> None:
    """Each pinned package has hashes, so that an index cannot slip in another file."""
    for name in LOCKS:
        blocks = re.split(r"\n(?=[a-z0-9])", (REQUIREMENTS / name).read_text(encoding="utf-8"))
        assert [block for block in blocks if "==" in block and "--hash=sha256:" not in block] == []


def test_locks_name_no_machine() -> None:
    """A lock is the same wherever it is made: no index, no path."""
    for name in LOCKS:
        assert not re.findall(r"https?://|file:|--index|--find-links", (REQUIREMENTS / name).read_text("utf-8"))


def test_the_lock_of_the_node_client_names_no_machine() -> None:
    """Packages are known by version and hash; where they come from is the installer's business."""
    packages = json.loads((ROOT / "tests/clients/node/package-lock.json").read_text("utf-8"))["packages"]
    installed = {name: package for name, package in packages.items() if name}
    assert installed
    assert all(package["integrity"].startswith("sha512-") for package in installed.values())
    assert not [name for name, package in installed.items() if "resolved" in package]
