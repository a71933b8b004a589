"""The Dockerfile: every role's image has the packages, the folders and the command that its process needs, and no more.

Nothing is built here. What the folders import is taken from the import graph, the packages from the lock files.
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
from tests.unit.deploy.containers import Stage, locked, parse, targets

DOCKERFILE = REPOSITORY / "deploy" / "images" / "Dockerfile"
ROOMS = ("protos", "lookalike", "encoders", "index", "server", "pipeline", "loadtest")
# What each image is for: every command that is given to it, here or in deploy/k8s.
USES = {
    "gateway": ["serve gateway"],
    "shard": ["serve shard"],
    "text-encoder": ["serve text-encoder"],
    "model-server": ["serve model-server"],
    "pipeline": ["update", "encoders export", "encoders train-text", "index build", "index inspect", "catalog check"],
    "loadtest": ["load"],
}
# What the command line itself imports, whatever the command.
ENTRY = "lookalike.__main__"


@cache
def stages() -> dict[str, Stage]:
    return parse(DOCKERFILE.read_text(encoding="utf-8"))


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOMS, include_external_packages=True, cache_dir=None)


def needed(target: str) -> set[str]:
    """Every module, ours and others', that the target's commands import, at once or in time."""
    modules = {ENTRY} | {COMMANDS[command].target.partition(":")[0] for command in USES[target]}
    if target == "loadtest":
        modules.add("loadtest.users")  # Started as a process of its own.
    return modules.union(*(graph().find_upstream_modules(module) for module in modules))


def distributions(target: str) -> Iterator[tuple[str, set[str]]]:
    """Each foreign package that is imported, and the names under which it may be installed."""
    known = packages_distributions()
    for module in needed(target):
        top = module.partition(".")[0]
        if top not in ROOMS and top not in sys.stdlib_module_names:
            yield top, {name.lower().replace("_", "-").replace(".", "-") for name in known.get(top, [top])}


@pytest.fixture(params=sorted(USES))
def target(request: pytest.FixtureRequest) -> Stage:
    return targets(stages())[request.param]


def test_there_is_an_image_for_every_use_and_a_use_for_every_image() -> None:
    assert targets(stages()).keys() == USES.keys()


def test_the_folders_that_the_commands_import_are_there_and_no_others(target: Stage) -> None:
    rooms = {module.partition(".")[0] for module in needed(target.name)} & set(ROOMS)
    assert set(target.sources) == rooms


def test_the_packages_that_the_commands_import_are_in_the_lock(target: Stage) -> None:
    (packages,) = target.stages
    (lock,) = stages()[packages].sources
    assert (REPOSITORY / lock).is_file()
    installed = locked(REPOSITORY / lock).keys()
    missing = {top for top, names in distributions(target.name) if not names & installed}
    assert not missing, f"{lock} lacks {sorted(missing)}"


def test_packages_are_installed_pinned_by_hash_and_without_what_was_not_asked_for(target: Stage) -> None:
    (packages,) = target.stages
    stage = stages()[packages]
    (lock,) = stage.sources
    assert stage.runs == [f"/venv/bin/pip install --no-deps --require-hashes -r /tmp/{lock.partition('/')[2]}"]
    for line in (REPOSITORY / lock).read_text(encoding="utf-8").split("\n\n"):
        assert line.count("==") <= line.count("--hash=sha256:")


def test_the_process_is_nobody_of_importance_and_runs_the_command_line(target: Stage) -> None:
    assert target.user == "10001:10001"
    assert target.entrypoint == ["python", "-m", "lookalike"]
    assert target.environment["PYTHONPATH"] == "/app"
    words = " ".join(word for word in target.command if not word.startswith("-"))
    assert words in USES[target.name]


def test_a_compiler_is_only_where_packages_are_installed() -> None:
    with_compiler = {name for name, stage in stages().items() if any("g++" in run for run in stage.runs)}
    assert with_compiler == {"build"}
    for stage in targets(stages()).values():
        assert stage.base == "base"
        assert stages()["base"].base == stages()["build"].base == "python:3.11-slim"


def test_light_roles_carry_no_heavy_library() -> None:
    heavy = {"tensorflow", "tensorflow-cpu", "keras", "faiss-cpu", "fasttext", "scikit-learn", "pyarrow", "h5py"}
    assert not heavy & locked(REPOSITORY / "requirements" / "gateway.lock").keys()
    assert not heavy & locked(REPOSITORY / "requirements" / "loadtest.lock").keys()
    shard = locked(REPOSITORY / "requirements" / "index.lock").keys()
    assert heavy & shard == {"faiss-cpu", "pyarrow"}


def test_the_builder_is_sent_what_the_dockerfile_copies_and_nothing_else() -> None:
    ignore = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {source.partition("/")[0] for stage in stages().values() for source in stage.sources}
    assert sent == copied


def test_the_example_in_the_dockerfile_builds_one_of_its_targets() -> None:
    example = re.search(r"--target (\S+) -t lookalike/(\S+):", DOCKERFILE.read_text(encoding="utf-8"))
    assert example is not None
    assert example[1] == example[2]
    assert example[1] in USES


def test_an_instruction_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="ADD"):
        parse("FROM a AS b\nADD x y\n")


CHECKS: dict[str, Callable[[Stage], None]] = {
    "folders": test_the_folders_that_the_commands_import_are_there_and_no_others,
    "packages": test_the_packages_that_the_commands_import_are_in_the_lock,
    "installed": test_packages_are_installed_pinned_by_hash_and_without_what_was_not_asked_for,
    "process": test_the_process_is_nobody_of_importance_and_runs_the_command_line,
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
