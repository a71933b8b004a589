"""The Dockerfile: every role's image has exactly the packages, folders and command that its process needs.

No image is built: imports are taken from the import graph, packages from the lock files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import packages_distributions

import grimp
import pytest

from lookalike.__main__ import COMMANDS
from tests.conftest import REPOSITORY
from tests.unit.deploy.containers import Stage, locked_packages, parse, targets

DOCKERFILE = REPOSITORY / "deploy" / "images" / "Dockerfile"
ROOMS = ("protos", "lookalike", "encoders", "index", "server", "node", "pipeline", "loadtest")
# The commands that each image runs, by default, in deploy/k8s, or for its operators.
USES = {
    "gateway": ["serve gateway", "keys create"],
    "shard": ["serve shard"],
    "node": ["serve node", "keys create"],
    "text-encoder": ["serve text-encoder"],
    "model-server": ["serve model-server"],
    "pipeline": [
        "update",
        "catalog reencode",
        "serve worker",
        "encoders export",
        "encoders train-text",
        "index build",
        "index inspect",
        "catalog check",
    ],
    "loadtest": ["load"],
}
# The entry point, which every command imports.
ENTRY_POINT = "lookalike.__main__"


@cache
def stages() -> dict[str, Stage]:
    return parse(DOCKERFILE.read_text(encoding="utf-8"))


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOMS, include_external_packages=True, cache_dir=None)


def imported_modules(target: str) -> set[str]:
    """Every module that the target's commands import, directly or indirectly, foreign ones too."""
    modules = {ENTRY_POINT} | {COMMANDS[command].target.partition(":")[0] for command in USES[target]}
    if target == "loadtest":
        modules.add("loadtest.users")  # Started as a process of its own.
    return modules.union(*(graph().find_upstream_modules(module) for module in modules))


def distributions(target: str) -> Iterator[tuple[str, set[str]]]:
    """Each foreign package that is imported, and the names under which it may be installed."""
    known = packages_distributions()
    for module in imported_modules(target):
        top = module.partition(".")[0]
        if top not in ROOMS and top not in sys.stdlib_module_names:
            yield top, {name.lower().replace("_", "-").replace(".", "-") for name in known.get(top, [top])}


@pytest.fixture(params=sorted(USES))
def target(request: pytest.FixtureRequest) -> Stage:
    return targets(stages())[request.param]


def test_every_image_has_commands_that_it_runs() -> None:
    assert targets(stages()).keys() == USES.keys()


def test_exactly_the_folders_that_the_commands_import_are_copied(target: Stage) -> None:
    rooms = {module.partition(".")[0] for module in imported_modules(target.name)} & set(ROOMS)
    assert set(target.sources) == rooms


def test_the_packages_that_the_commands_import_are_in_the_lock_file(target: Stage) -> None:
    (packages,) = target.stages
    (lock,) = stages()[packages].sources
    assert (REPOSITORY / lock).is_file()
    installed = locked_packages(REPOSITORY / lock).keys()
    missing = {top for top, names in distributions(target.name) if not names & installed}
    assert not missing, f"{lock} lacks {sorted(missing)}"


def test_exactly_the_packages_of_the_lock_file_are_installed_and_verified_by_hash(target: Stage) -> None:
    (packages,) = target.stages
    stage = stages()[packages]
    (lock,) = stage.sources
    assert stage.runs == [f"/venv/bin/pip install --no-deps --require-hashes -r /tmp/{lock.partition('/')[2]}"]
    for line in (REPOSITORY / lock).read_text(encoding="utf-8").split("\n\n"):
        assert line.count("==") <= line.count("--hash=sha256:")


def test_the_process_has_no_privileges_and_runs_the_command_line(target: Stage) -> None:
    assert target.user == "10001:10001"
    assert target.entrypoint == ["python", "-m", "lookalike"]
    assert target.environment["PYTHONPATH"] == "/app"
    command = " ".join(argument for argument in target.command if not argument.startswith("-"))
    assert command in USES[target.name]


def test_only_the_build_stage_has_a_compiler() -> None:
    with_compiler = {name for name, stage in stages().items() if any("g++" in run for run in stage.runs)}
    assert with_compiler == {"build"}
    for stage in targets(stages()).values():
        assert stage.base == "base"
        assert stages()["base"].base == stages()["build"].base == "python:3.11-slim"


def test_the_images_of_light_roles_have_no_heavy_packages() -> None:
    heavy = {"tensorflow", "tensorflow-cpu", "keras", "faiss-cpu", "fasttext", "scikit-learn", "pyarrow", "h5py"}
    assert not heavy & locked_packages(REPOSITORY / "requirements" / "gateway.lock").keys()
    assert not heavy & locked_packages(REPOSITORY / "requirements" / "loadtest.lock").keys()
    shard = locked_packages(REPOSITORY / "requirements" / "index.lock").keys()
    assert heavy & shard == {"faiss-cpu", "pyarrow"}


@pytest.mark.parametrize("role", ["index", "pipeline", "dev"])
def test_what_builds_and_reads_indexes_has_the_library_of_a_recipe_that_is_imported_by_name(role: str) -> None:
    assert "rabitqlib" in locked_packages(REPOSITORY / "requirements" / f"{role}.lock")


@pytest.mark.parametrize("role", ["pipeline", "dev"])
def test_what_runs_tasks_on_a_cluster_has_ray_which_is_imported_by_name(role: str) -> None:
    assert "ray" in locked_packages(REPOSITORY / "requirements" / f"{role}.lock")


def test_the_build_context_is_exactly_what_the_dockerfile_copies() -> None:
    ignore = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    context = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {source.partition("/")[0] for stage in stages().values() for source in stage.sources}
    assert context == copied


def test_the_example_in_the_dockerfile_builds_one_of_its_targets() -> None:
    example = re.search(r"--target (\S+) -t lookalike/(\S+):", DOCKERFILE.read_text(encoding="utf-8"))
    assert example is not None
    assert example[1] == example[2]
    assert example[1] in USES


def test_an_unknown_instruction_is_refused() -> None:
    with pytest.raises(ValueError, match="ADD"):
        parse("FROM a AS b\nADD x y\n")


CHECKS: dict[str, Callable[[Stage], None]] = {
    "folders": test_exactly_the_folders_that_the_commands_import_are_copied,
    "packages": test_the_packages_that_the_commands_import_are_in_the_lock_file,
    "installed": test_exactly_the_packages_of_the_lock_file_are_installed_and_verified_by_hash,
    "process": test_the_process_has_no_privileges_and_runs_the_command_line,
}


@pytest.mark.parametrize(
    ("before", "after", "failing"),
    [
        ("COPY server server\n", "", "folders"),
        ("COPY server server\n", "COPY server server\nCOPY index index\n", "folders"),
        ("requirements/gateway.lock", "requirements/index.lock", "packages"),
        ("--require-hashes -r /tmp/gateway", "-r /tmp/gateway", "installed"),
        ('["serve", "gateway"]', '["serve", "gatewya"]', "process"),
        ("USER 10001:10001\n", "", "process"),
        ("PYTHONPATH=/app", "PYTHONPATH=/src", "process"),
    ],
)
def test_each_of_these_checks_can_fail(before: str, after: str, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert before in text
    changed = parse(text.replace(before, after))
    monkeypatch.setattr(sys.modules[__name__], "stages", lambda: changed)
    with pytest.raises(AssertionError):
        CHECKS[failing](targets(changed)["gateway"])
