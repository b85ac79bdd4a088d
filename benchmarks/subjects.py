"""The models that are measured, their folders, and the machine they are measured on."""

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path("~/.cache/quartzite/bench").expanduser()
PYTHON = ROOT / ".venv" / "bin" / "python"


@dataclass(frozen=True)
class Subject:
    """One model: how its folder is made, how many texts a round of the engine's bench embeds, what it takes."""

    name: str
    like: str | None
    tokenizer_of: str | None
    texts: int
    max_tokens: int
    sizes: tuple[str, ...] = ()
    """Flags of `make_folder.py` that make it smaller than what it is like."""
    sees: bool = False
    """Whether it takes images."""


SUBJECTS = {
    "minilm": Subject("MiniLM-L6 (real weights)", None, None, 768, 256),
    "bge-large": Subject("bge-large shape (random weights)", "BAAI/bge-large-en-v1.5", "minilm", 64, 512),
    "bge-m3": Subject("bge-m3 shape (random weights)", "BAAI/bge-m3", None, 64, 8192),
    "qwen3-0.6b": Subject("Qwen3-Embedding-0.6B shape (random weights)", "Qwen/Qwen3-Embedding-0.6B", None, 12, 32768),
    "qwen3-vl-small": Subject(
        "Qwen3-VL-Embedding, a small shape (random weights)",
        "Qwen/Qwen3-VL-Embedding-2B",
        None,
        0,
        32768,
        (
            *("--layers", "12", "--hidden", "1024", "--intermediate", "3072"),
            *(
                "--vision-layers",
                "12",
                "--vision-hidden",
                "768",
                "--vision-heads",
                "12",
                "--vision-intermediate",
                "3072",
            ),
        ),
        sees=True,
    ),
}


def make_folder(subject: Subject, python: Path, cache: Path) -> Path:
    """Return the model folder of `subject`, made or unpacked on first use."""
    if subject.like is None:
        code = (
            "from pathlib import Path; from quartzite.config import ModelSettings, DEFAULT_MODEL; "
            "from quartzite.registry.files import locate; "
            f"print(locate(ModelSettings(name=DEFAULT_MODEL), Path({str(cache)!r}), False))"
        )
        return Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    folder = cache / (subject.like.replace("/", "--") + ("-small" if subject.sizes else ""))
    if not folder.exists():
        command = [
            python,
            ROOT / "scripts" / "make_folder.py",
            "--like",
            subject.like,
            "--output",
            folder,
            *subject.sizes,
        ]
        if subject.tokenizer_of:
            shared = make_folder(SUBJECTS[subject.tokenizer_of], python, cache)
            command += ["--tokenizer", shared / "tokenizer.json"]
        subprocess.run(command, check=True)
    return folder


def machine() -> dict[str, str]:
    """Describe the processor, its useful flags and the memory."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    said = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in facts if line.strip()}
    cores = sum(line.startswith("processor") for line in facts)
    flags = [
        flag for flag in said["flags"].split() if flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    ]
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    return {
        "processor": f"{said['model name']}, family {said['cpu family']} model {said['model']}, {cores} cores",
        "flags": " ".join(flags),
        "memory": f"{int(memory) / 2**20:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
