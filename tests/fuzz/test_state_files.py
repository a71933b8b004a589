"""A file that was damaged is refused by name, or read as if it were not there; nothing else happens."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from encoders import artifact
from encoders.image.card import read_card
from encoders.text import fasttext_file
from index.building.build import build
from index.live import live_directory
from index.live.live_directory import Checkpoint
from index.live.write_ahead_log import WriteAheadLog, read_frames
from index.serving.shard_version import ShardVersion, open_shard
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.releases import version
from lookalike.releases.canary import Canary, dump_canary, parse_canary
from lookalike.releases.location import Directory
from lookalike.releases.manifest import Manifest, dump_manifest, parse_manifest
from lookalike.releases.records import ReleaseRecord, read_record, write_record
from pipeline.gate.golden import read_golden
from pipeline.update import lease, progress
from tests.fuzz.budget import fuzz
from tests.fuzz.mutations import damaged, other_json
from tests.unit.index.live_samples import build_version, open_live, remove, upsert
from tests.unit.index.samples import IMAGE, catalogue, unit_vectors, vectors_of

NESTED = b"[" * 10_000


@contextmanager
def refused(where: str) -> Iterator[None]:
    """Let an error of the operator pass that says where; no other."""
    try:
        yield
    except OperatorError as error:
        assert where in str(error)  # noqa: PT017  # most examples raise none


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("location")
    build(where, catalogue(300), {IMAGE: vectors_of(unit_vectors(300, 8))}, shards=1, exact_floats=1)
    return where


@pytest.fixture(scope="module")
def manifest(location: Path) -> str:
    return (location / version.read_current(location) / "manifest.json").read_text()


@fuzz(100, data=st.data())
def test_a_manifest_is_read_whole_or_refused(manifest: str, data: Any) -> None:
    text = data.draw(damaged(manifest.encode())).decode(errors="replace")
    with refused("x: "):
        assert dump_manifest(parse_manifest(text, "x")) == dump_manifest(parse_manifest(manifest, "x"))


@fuzz(150, data=st.data())
def test_a_manifest_of_other_values_is_a_manifest_or_refused(manifest: str, data: Any) -> None:
    body = data.draw(other_json(json.loads(manifest)))
    if isinstance(body, dict):
        body.pop("checksum", None)
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
        body["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    with refused("x: "):
        assert isinstance(parse_manifest(json.dumps(body), "x"), Manifest)


def _write_card(directory: Path) -> Path:
    (directory / "card.json").write_text(
        json.dumps(
            {"network": "mine", "input_px": 32, "preprocessing": "tf", "output": "features", "dimension": 8, "seed": 1}
        )
    )
    return directory / "card.json"


def _write_live(directory: Path) -> Path:
    live_directory.write_checkpoint(directory, Checkpoint(log=3, segment="segment-000003-1", sequence=7))
    return directory / live_directory.LIVE


def _write_record(directory: Path) -> Path:
    write_record(Directory(directory), ReleaseRecord(version="0123456789abcdef", made_at="").with_event("built", "x"))
    return directory / "releases" / "0123456789abcdef.json"


def _write_canary(directory: Path) -> Path:
    (directory / "CANARY").write_text(dump_canary(Canary(version="0123456789abcdef", share=0.1)))
    return directory / "CANARY"


def _write_golden(directory: Path) -> Path:
    (directory / "golden.jsonl").write_text('{"query": {"text": "mug"}, "find": ["p1"], "k": 3}\n# more\n')
    return directory / "golden.jsonl"


def _write_progress(directory: Path) -> Path:
    path = directory / "progress.json"
    path.write_text(json.dumps({"format": progress._FORMAT, "inputs": "i", "finished": False, "steps": {}}))
    return path


def _write_artifact(directory: Path) -> Path:
    (directory / "a.npy").write_bytes(b"data")
    body: dict[str, Any] = {"format": 1, "kind": "k", "files": {"a.npy": artifact.file_sha256(directory / "a.npy")}}
    (directory / artifact.MANIFEST).write_text(json.dumps({**body, "fingerprint": artifact.manifest_fingerprint(body)}))
    return directory / artifact.MANIFEST


def _write_lease(directory: Path) -> Path:
    (directory / "lease").write_text(json.dumps({"owner": "me", "renewed": 3}))
    return directory / "lease"


FILES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], tuple[type[Exception], ...]]] = {
    "card": (_write_card, lambda path: read_card(path.parent), (BadArtifact,)),
    "LIVE": (_write_live, lambda path: live_directory.read_checkpoint(path.parent), (BadArtifact,)),
    "record": (_write_record, lambda path: read_record(Directory(path.parent.parent), path.stem), (OperatorError,)),
    "CANARY": (_write_canary, lambda path: parse_canary(path.read_text(errors="replace"), "x"), (BadArtifact,)),
    "golden queries": (_write_golden, read_golden, (BadSettings,)),
    "progress of an update": (_write_progress, progress._read, ()),
    "encoder": (
        _write_artifact,
        lambda path: artifact.read_manifest(path.parent, format_version=1, files={"k": ["a.npy"]}),
        (BadArtifact,),
    ),
    "lease of an update": (_write_lease, lambda path: lease._parse(path.read_bytes()), ()),
}


@pytest.mark.parametrize("kind", FILES)
@fuzz(60, data=st.data())
def test_a_state_file_is_read_or_refused(kind: str, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    write, read, refusals = FILES[kind]
    path = write(_folder(tmp_path_factory, kind))
    whole = path.read_bytes()
    changed = damaged(whole)
    if kind != "golden queries":
        changed |= other_json(json.loads(whole)).map(lambda body: json.dumps(body).encode())
    path.write_bytes(data.draw(changed | st.just(NESTED)))
    with suppress(*refusals):
        read(path)


def _folder(factory: pytest.TempPathFactory, name: str) -> Path:
    path = factory.getbasetemp() / name.replace(" ", "-")
    path.mkdir(exist_ok=True)
    return path


def _fasttext(entries: int) -> bytes:
    words = b"".join(word + b"\0" + struct.pack("<qb", 3, 0) for word in (b"red", "靴".encode()))
    head = struct.pack("<2i12id", 793712314, 12, 2, 5, 5, 1, 5, 1, 1, 1, 3, 3, 6, 100, 1e-4)
    head += struct.pack("<3i2q", entries, 2, 0, 6, -1) + words
    return head + b"\0" + struct.pack("<?2q", False, 5, 2) + bytes(5 * 2 * 4)


@pytest.mark.parametrize("entries", [0, 1, -1, 2**31 - 1])
def test_a_fasttext_file_with_fewer_entries_than_words_is_refused(tmp_path: Path, entries: int) -> None:
    (tmp_path / "model.bin").write_bytes(_fasttext(entries))
    with pytest.raises(BadArtifact, match="not a complete fastText model"):
        fasttext_file.read(tmp_path / "model.bin")


@fuzz(100, data=st.data())
def test_a_fasttext_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    whole = _fasttext(2)
    path = _folder(tmp_path_factory, "fasttext") / "model.bin"
    path.write_bytes(data.draw(damaged(whole) | st.just(whole)))
    with refused(str(path)):
        fasttext_file.read(path)


@fuzz(100, data=st.data())
def test_a_log_gives_a_prefix_of_its_frames_or_is_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = _folder(tmp_path_factory, "log") / "log-000001"
    path.unlink(missing_ok=True)
    log, payloads = WriteAheadLog.create(path), [b"one", b"", b"three" * 100]
    for payload in payloads:
        log.append(payload)
    log.close()
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    last, read = data.draw(st.booleans()), []
    with refused(str(path)):
        read += [payload for payload, _ in read_frames(path, last=last)]
    # A copy of whole frames is whole frames, so a damaged log may repeat them; it never makes one up.
    assert set(read) <= set(payloads)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardVersion, Path]:
    """A version, and a live directory of it with two logs."""
    folder = tmp_path_factory.mktemp("live")
    shard = build_version(folder / "location")
    live_shard = open_live(shard, folder / "live")
    for revision in range(1, 20):
        live_shard.apply([upsert(f"p{revision}", revision), remove(f"p{revision + 20}", revision)])
    live_shard.close()
    return shard, folder / "live"


@fuzz(60, data=st.data())
def test_a_live_directory_is_recovered_or_refused(
    live: tuple[ShardVersion, Path], tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    shard, whole = live
    copy = tmp_path_factory.getbasetemp() / "copy-of-live"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    path = data.draw(st.sampled_from(sorted(each for each in copy.iterdir() if each.is_file())))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    with refused(str(copy)):
        open_live(shard, copy).close()


@fuzz(60, data=st.data())
def test_a_damaged_file_of_a_version_is_refused(
    location: Path, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    copy = tmp_path_factory.getbasetemp() / "copy-of-version"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(location, copy)
    files = sorted(each for each in (copy / version.read_current(copy)).rglob("*") if each.is_file())
    path = data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    try:
        open_shard(copy, 0)
    except OperatorError:
        return
    assert path.read_bytes() == whole


@pytest.mark.parametrize("change", [{"kind": []}, {"files": []}, {"files": None}])
def test_an_encoder_whose_manifest_has_other_values_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = _write_artifact(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadArtifact):
        artifact.read_manifest(tmp_path, format_version=1, files={"k": ["a.npy"]})


@pytest.mark.parametrize("kind", FILES)
def test_a_state_file_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    write, read, _ = FILES[kind]
    assert read(write(tmp_path))
