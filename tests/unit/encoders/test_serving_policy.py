"""TensorFlow-Serving's version policies: which versions are aspired, and in which order they are loaded."""

from __future__ import annotations

import itertools

import pytest

from encoders.serving.policy import (
    AVAILABLE,
    END,
    LOADING,
    UNLOADING,
    All,
    Latest,
    Load,
    Specific,
    State,
    Unload,
    VersionPolicy,
    aspired_versions,
    next_action,
    parse_labels,
    parse_policy,
)
from lookalike.errors import BadSettings


@pytest.mark.parametrize(
    ("policy", "aspired"),
    [
        (Latest(), {11}),
        (Latest(2), {9, 11}),
        (Latest(0), {11}),
        (Latest(7), {1, 9, 11}),
        (All(), {1, 9, 11}),
        (Specific(frozenset({1, 5})), {1}),
    ],
)
def test_the_policy_selects_the_aspired_versions(policy: VersionPolicy, aspired: set[int]) -> None:
    assert aspired_versions(policy, [9, 11, 1]) == aspired


def test_without_versions_none_is_aspired() -> None:
    assert aspired_versions(Latest(), []) == frozenset()


@pytest.mark.parametrize(
    ("states", "aspired", "action"),
    [
        ({}, {1, 2}, Load(2)),
        ({2: AVAILABLE}, {1, 2}, Load(1)),
        ({1: AVAILABLE}, {2}, Load(2)),
        ({1: AVAILABLE, 2: LOADING}, {2}, None),
        ({1: AVAILABLE, 2: AVAILABLE}, {2}, Unload(1)),
        ({1: UNLOADING, 2: AVAILABLE}, {2}, None),
        ({1: AVAILABLE, 2: AVAILABLE}, {3}, Unload(1)),
        ({2: AVAILABLE}, {3}, Load(3)),
        ({2: AVAILABLE, 3: END}, {3}, None),
        ({2: AVAILABLE}, set(), Unload(2)),
        ({2: AVAILABLE}, {2}, None),
        ({}, set(), None),
    ],
)
def test_a_new_version_is_loaded_before_the_last_old_one_is_unloaded(
    states: dict[int, State], aspired: set[int], action: Load | Unload | None
) -> None:
    assert next_action(states, aspired) == action


def test_in_every_transition_between_versions_one_is_always_available() -> None:
    subsets = [frozenset(subset) for n in range(1, 4) for subset in itertools.combinations(range(1, 5), n)]
    for before, aspired in itertools.product(subsets, subsets):
        states: dict[int, State] = dict.fromkeys(before, AVAILABLE)
        for _ in range(10):
            action = next_action(states, aspired)
            if isinstance(action, Load):
                states[action.version] = AVAILABLE
            elif isinstance(action, Unload):
                del states[action.version]
            assert states
        assert states.keys() == aspired


def test_policies_are_parsed() -> None:
    assert parse_policy("latest") == Latest(1)
    assert parse_policy("latest:3") == Latest(3)
    assert parse_policy("all") == All()
    assert parse_policy("specific:1,30") == Specific(frozenset({1, 30}))


@pytest.mark.parametrize(
    "text",
    ["", "newest", "latest:", "latest:0", "all:2", "specific", "specific:", "specific:-1", f"specific:{1 << 63}"],
)
def test_an_unknown_policy_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="model_version_policy"):
        parse_policy(text)


def test_a_duplicate_label_is_refused() -> None:
    with pytest.raises(BadSettings, match="version_labels=stable=4: stable is already version 3"):
        parse_labels(("stable=3", "canary=4", "stable=4"))


def test_labels_are_parsed() -> None:
    assert parse_labels(("stable=3", "canary=12")) == {"stable": 3, "canary": 12}


@pytest.mark.parametrize("pair", ["stable", "=3", "stable=", "stable=x", "stable=0", f"stable={1 << 63}"])
def test_a_label_without_name_or_version_is_refused(pair: str) -> None:
    with pytest.raises(BadSettings, match="version_labels"):
        parse_labels((pair,))
