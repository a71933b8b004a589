"""Which versions may be removed."""

from __future__ import annotations

from lookalike.releases.retention import KeptVersion, removable_versions


def versions(*names: str) -> list[KeptVersion]:
    """By rising age, the first is the oldest."""
    return [KeptVersion(name=name, made_at=f"2026-11-{day:02}T00:00:00+00:00") for day, name in enumerate(names, 1)]


def test_the_youngest_are_kept_beside_what_serves_and_what_it_replaced() -> None:
    assert removable_versions(versions(*"abcdef"), current="f", replaced="a", keep=2) == ["b", "c"]


def test_what_is_pinned_is_kept_and_does_not_count() -> None:
    assert removable_versions(versions(*"abcde"), current="e", replaced="d", pinned={"a"}, keep=1) == ["b"]


def test_what_serves_is_kept_although_it_is_the_oldest() -> None:
    assert removable_versions(versions(*"abc"), current="a", replaced="", keep=0) == ["b", "c"]


def test_where_nothing_serves_nothing_is_removable() -> None:
    assert removable_versions(versions(*"abc"), current="", replaced="", keep=0) == []


def test_what_no_update_made_is_kept() -> None:
    made = KeptVersion(name="a", made_by_update=False)
    assert removable_versions([made, *versions(*"bc")], current="c", replaced="", keep=0) == ["b"]


def test_a_version_of_unknown_age_is_the_oldest() -> None:
    unknown = KeptVersion(name="z")
    assert removable_versions([*versions(*"abc"), unknown], current="c", replaced="", keep=2) == ["z"]
