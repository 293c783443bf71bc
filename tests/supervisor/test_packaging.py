"""The distribution: complete, installable on its own, and layered as the layout says."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "millstream"
LINKS = ("protocol", "worker", "supervisor")

# What each layer may import of the others; "public" are the names that `millstream` itself offers to users.
MAY_IMPORT = {
    "protocol": {"protocol"},
    "worker": {"protocol", "worker"},
    "supervisor": {"protocol", "worker", "supervisor", "public"},
}


def project_files() -> list[str]:
    """Files that belong to the project, relative to its top: what git tracks or would track."""
    if not (ROOT / ".git").exists():  # an unpacked sdist
        files = (path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts)
        return sorted(str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts)
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, as a fresh clone has it; the links stay links."""
    folder = tmp_path_factory.mktemp("source")
    for name in project_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in LINKS:
        (folder / name).symlink_to(f"millstream/{name}")
    return folder


@pytest.fixture(scope="module")
def distributions(source: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source / "dist"), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next((source / "dist").glob("*.tar.gz")), next((source / "dist").glob("*.whl"))


def test_the_wheel_holds_exactly_the_package(source: Path, distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licences = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    expected = {str(path.relative_to(source)) for path in (source / "millstream").rglob("*") if path.is_file()}
    assert packed == expected
    assert {"millstream/py.typed", "millstream/__main__.py"} <= packed
    assert licences


def test_the_sdist_holds_the_project(source: Path, distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    expected = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    outside = {name for name in expected if name.startswith(("dist/", *(f"{link}/" for link in LINKS)))}
    assert packed - {"PKG-INFO"} == expected - outside


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_wheel_works_in_a_clean_environment(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """With the dependencies that it declares and nothing else; needs a package index."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", str(distributions[1])]
    subprocess.run(install, check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for command in ([python.with_name("millstream")], [python, "-m", "millstream"]):
        done = subprocess.run(
            [*command, "--version"], cwd=elsewhere, env=environ, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "millstream 0.1.0\n"), done.stderr
    modules = "\n".join(f"import {name}" for name in module_names() if not name.endswith("__main__"))
    subprocess.run([python, "-c", modules], cwd=elsewhere, env=environ, check=True)


def module_names() -> Iterator[str]:
    for path in sources():
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    return sorted(ROOT / name for name in project_files() if name.startswith("millstream/") and name.endswith(".py"))


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere in it; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("layer", LINKS)
def test_imports_point_one_way(layer: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources()
        if path.is_relative_to(PACKAGE / layer)
        for name in imported(path)
        if name.split(".")[0] == "millstream" and layer_of(name) not in MAY_IMPORT[layer]
    ]
    assert wrong == []


def layer_of(name: str) -> str:
    part = name.split(".")[1] if "." in name else ""
    return part if part in LINKS else "public"


def test_the_links_are_for_readers_only() -> None:
    for name in LINKS:
        assert (ROOT / name).is_symlink()
        assert os.readlink(ROOT / name) == f"millstream/{name}"
    by_link = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in [*sources(), *(ROOT / "tests").rglob("*.py")]
        for name in imported(path)
        if name.split(".")[0] in LINKS
    ]
    assert by_link == []
