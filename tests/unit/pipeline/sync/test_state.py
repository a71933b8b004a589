from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from lookalike.errors import OperatorError
from pipeline.sync.state import REMOVED, UNSURE, UNSURE_REMOVED, Known, SyncState

GREATEST = (1 << 64) - 1


def test_what_is_committed_is_there_again_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "s"
    with SyncState(file, source="a") as state:
        run = state.begin_run()
        state.remember([("p", Known(run, GREATEST, b"digest"))])
        state.commit(datetime(2026, 11, 25), "stream")
        state.remember([("q", Known(run, 1, b"digest"))])
    with SyncState(file, source="a") as state:
        assert state.position == datetime(2026, 11, 25)
        assert state.stream_id == "stream"
        assert state.run == run
        assert state.known(["p", "q"]) == {"p": Known(run, GREATEST, b"digest")}


def test_a_state_is_of_one_sync_at_a_time(tmp_path: Path) -> None:
    with (
        SyncState(tmp_path / "s", source="a"),
        pytest.raises(OperatorError, match="another sync is running with this state"),
    ):
        SyncState(tmp_path / "s", source="a")


def test_a_state_of_another_source_is_refused_until_the_sync_begins_anew(tmp_path: Path) -> None:
    with SyncState(tmp_path / "s", source="the table a") as state:
        state.commit(5)
    with pytest.raises(OperatorError, match="of another source, the table a, and not of the table b"):
        SyncState(tmp_path / "s", source="the table b")
    with SyncState(tmp_path / "s", source="the table b", restart=True) as state:
        assert state.position is None


def test_beginning_anew_keeps_revisions_and_no_digests(tmp_path: Path) -> None:
    with SyncState(tmp_path / "s", source="a") as state:
        state.remember([("p", Known(1, 7, b"digest")), ("gone", Known(1, 8, REMOVED))])
        state.commit(5, "stream")
    with SyncState(tmp_path / "s", source="a", restart=True) as state:
        assert state.known(["p", "gone"]) == {"p": Known(1, 7, UNSURE), "gone": Known(1, 8, UNSURE_REMOVED)}
        assert state.stream_id == ""


def test_vanished_is_what_the_pass_did_not_see_in_any_way(tmp_path: Path) -> None:
    with SyncState(tmp_path / "s", source="a") as state:
        state.begin_run()
        state.remember((id, Known(1, 1, b"digest")) for id in ("seen", "bad", "b", "a", "c"))
        state.remember([("removed", Known(1, 1, REMOVED))])
        run = state.begin_run()
        state.remember([("seen", Known(run, 1, b"digest")), ("bad", Known(-run, 1, b"digest"))])
        assert (state.published(), state.vanished()) == (5, 3)
        assert list(state.vanished_ids(2)) == [["a", "b"], ["c"]]


def test_a_rollback_forgets_what_was_not_committed(tmp_path: Path) -> None:
    with SyncState(tmp_path / "s", source="a") as state:
        state.remember([("p", Known(1, 1, b"digest"))])
        state.rollback()
        assert state.known(["p"]) == {}


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be looked at" * 100, b"SQLite format 3\0" * 9]
)
def test_a_file_that_is_no_state_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(OperatorError, match="not the state of a sync, or damaged"):
        SyncState(tmp_path / "s", source="a")


def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    with SyncState(tmp_path / "s", source="a") as state:
        state._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(OperatorError, match="cannot be written: database or disk is full"):
            state.remember((f"{number:0250}", Known(1, 1, b"digest")) for number in range(1000))


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="unable to open database file"):
        SyncState(tmp_path / "none" / "s", source="a")
