"""The installed client: one import name, few dependencies, at the oldest and the newest versions allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

UV = Path(sys.executable).with_name("uv")
CLIENT_SCRIPT = """
import asyncio, json, sys, time
started_s = time.process_time()
import lookalike.client
import_s = time.process_time() - started_s
from lookalike.client import AsyncClient, Client
from lookalike.errors import InvalidRequest, NotFound

modules = sorted({name.partition(".")[0] for name in sys.modules})
address = sys.argv[1]

async def search_async():
    async with AsyncClient(address) as client:
        return (await client.search(product_id="7", space="image", limit=3)).hits[0].product.id

with Client(address) as client:
    response = client.search(vector=[1.0] * 16, space="image", limit=3)
    refused = []
    for arguments, error in (({"product_id": "none"}, NotFound), ({"product_id": "7", "limit": 0}, InvalidRequest)):
        try:
            client.search(space="image", **arguments)
        except error:
            refused.append(error.__name__)
    result = {
        "hits": len(response.hits), "coverage": response.provenance.coverage, "count": client.count(),
        "listed": len(list(client.list(limit=5))), "refused": refused, "async": asyncio.run(search_async()),
        "modules": modules, "import_s": import_s, "file": lookalike.client.__file__,
    }
print(json.dumps(result))
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the installed client."""

    python: Path

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment outside any clone of the repository."""
        environ = {"PATH": f"{self.python.parent}:/usr/bin:/bin", "COLUMNS": "120"}
        return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=120, check=False)

    def import_names(self) -> set[str]:
        """The top-level names that the wheel has installed."""
        script = "import importlib.metadata as m; print('\\n'.join(str(f) for f in m.files('lookalike')))"
        files = subprocess.run([self.python, "-c", script], capture_output=True, text=True, check=True).stdout.split()
        return {name for file in files if not (name := file.partition("/")[0]).endswith(".dist-info") and name != ".."}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["build", "--wheel", "--offline", "--no-build-isolation", "--quiet", "--python", sys.executable]
    subprocess.run([UV, *options, "--out-dir", folder, REPOSITORY], check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=["lowest-direct", "highest"])
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with only the wheel, and with the oldest or newest dependencies that pyproject.toml allows."""
    if request.param == "lowest-direct" and sys.version_info >= (3, 12):
        pytest.skip("the oldest dependencies have wheels for Python 3.11 only")
    folder = tmp_path_factory.mktemp(request.param) / "venv"
    environ = dict(os.environ)  # noqa: TID251  # passed on to a subprocess
    environ.pop("VIRTUAL_ENV", None)
    _uv(["venv", "--quiet", "--python", sys.executable, str(folder)], environ)
    python = folder / "bin" / "python"
    _uv(["pip", "install", "--quiet", "--python", str(python), "--resolution", request.param, str(wheel)], environ)
    return Environment(python)


def _uv(arguments: Sequence[str], environ: dict[str, str]) -> None:
    result = subprocess.run([UV, *arguments], env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr


def test_the_wheel_has_one_import_name_and_types_and_no_serving_process(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"lookalike"}
    assert "lookalike/py.typed" in names
    packages = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert packages - {"licenses"} == {"cli", "v1"}


def test_the_installed_client_queries_a_running_gateway(
    installed: Environment, served_address: str, tmp_path: Path
) -> None:
    process = installed.run("python", "-W", "error", "-c", CLIENT_SCRIPT, served_address, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert Path(result["file"]).is_relative_to(installed.python.parents[1])
    assert installed.import_names() == {"lookalike"}
    assert (result["hits"], result["coverage"], result["listed"]) == (3, 1.0, 5)
    assert result["refused"] == ["NotFound", "InvalidRequest"]
    assert not {"prometheus_client", "grpc_health", "grpc_reflection", "grpc_status"} & set(result["modules"])
    assert "numpy" not in result["modules"]  # It would take two fifths of the import time, and only vectors need it.


def test_the_installed_search_command_queries_a_running_gateway(
    installed: Environment, served_address: str, tmp_path: Path
) -> None:
    command = ("lookalike", "search", "--product", "7", "--space", "image", "--address", served_address)
    table = installed.run(*command, cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "coverage 100%" in table.stdout
    response = installed.run(*command, "--json", cwd=tmp_path)
    assert len(json.loads(response.stdout)["hits"]) == 10


def test_commands_that_run_the_system_say_that_they_need_a_clone(installed: Environment, tmp_path: Path) -> None:
    for command in ("serve gateway", "serve local", "demo", "index build", "update", "encoders export", "load"):
        result = installed.run("lookalike", *command.split(), "--help", cwd=tmp_path)
        assert result.returncode == 2, command
        assert "run it from a clone of the repository" in result.stderr
        assert "Traceback" not in result.stderr
    overview = installed.run("lookalike", cwd=tmp_path).stdout
    available, only_in_a_clone = overview.split("only in a clone or a container image:")
    assert "search" in available
    assert "serve gateway" not in available
    assert "serve gateway" in only_in_a_clone


def test_an_unrelated_package_with_the_name_of_one_of_ours_is_not_run(installed: Environment, tmp_path: Path) -> None:
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    result = subprocess.run([installed.python, "-c", script], capture_output=True, text=True, check=True)
    foreign = Path(result.stdout.strip()) / "server"
    foreign.mkdir()
    (foreign / "app.py").write_text("print('foreign')")
    result = installed.run("lookalike", "serve", "gateway", cwd=tmp_path)
    assert result.returncode == 2
    assert "foreign" not in result.stdout
