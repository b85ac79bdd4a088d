"""Make the environments of the peers, each from its pinned requirements.

    python benchmarks/peers/install.py [infinity vllm llama ...] [--cache FOLDER]

Pins are complete and installed without resolving: what packages ask for and do not need on a CPU (torchvision, CUDA)
stays away. They were taken with Python 3.11 on Linux x86-64. `torch` is meant as its CPU build: offer pip that wheel by
PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL. llama-cpp-python is compiled, which takes several minutes.
"""

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
NAMES = sorted(file.stem for file in REQUIREMENTS.glob("*.txt"))
CONVERTER = ("convert_hf_to_gguf.py", "conversion", "gguf-py")


def main() -> None:
    """Make the named environments, or those that are missing or whose pins have changed."""
    parser = argparse.ArgumentParser(description="Make the environments of the peers.")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=NAMES, metavar="NAME")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/quartzite/bench").expanduser())
    asked = parser.parse_args()
    failed = [name for name in asked.names if not install(name, asked.cache / "peers" / name)]
    if failed:
        sys.exit(f"not made: {', '.join(failed)}; the others are ready")


def install(name: str, folder: Path) -> bool:
    """Make one environment in `folder`; tell whether it is there."""
    pins = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    ready = folder / ".ready"
    if ready.exists() and ready.read_text(encoding="utf-8") == pins:
        return True
    print(f"{folder} ...", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        _pip(folder, "install", "--no-deps", "-r", str(REQUIREMENTS / f"{name}.txt"))
        if name == "llama":
            _keep_converter(folder, pins)
    except subprocess.CalledProcessError as fault:
        print(f"{name}: {fault}", file=sys.stderr)
        return False
    ready.write_text(pins, encoding="utf-8")
    return True


def _pip(folder: Path, *arguments: str) -> None:
    subprocess.run([folder / "bin" / "python", "-m", "pip", "--quiet", *arguments], check=True)


def _keep_converter(folder: Path, pins: str) -> None:
    """Keep llama.cpp's script that makes a GGUF: it comes with the source archive only."""
    pin = next(line for line in pins.splitlines() if line.startswith("llama_cpp_python=="))
    _pip(folder, "download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), pin)
    archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            _, _, inner = member.name.partition("/vendor/llama.cpp/")
            if inner.startswith(CONVERTER):
                member.name = f"converter/{inner}"
                files.extract(member, folder, filter="data")
    archive.unlink()


if __name__ == "__main__":
    main()
