"""The locks hold what pyproject.toml asks for, and nothing that was left out on purpose."""

import json
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

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
