"""Spaces beside each other, beside baselines, and what AUTO's policy makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lookalike.errors import BadSettings, OperatorError
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32
from pipeline.evaluation import baselines
from pipeline.evaluation.heldout import Part
from pipeline.evaluation.judging import CEILING, CHANCE, Judgement, judged
from pipeline.evaluation.measures import cosines
from pipeline.evaluation.policy import DEFAULT, Policy
from server.policy import AutoPolicy
from server.settings import GatewaySettings
from tests.unit.pipeline.indexes import around, categories


def part(of: Sequence[str], **vectors: F32) -> Part:
    products = [Product(id=f"p{at}", category=category) for at, category in enumerate(of)]
    return Part(products=products, vectors=vectors)


def judgement(policy: str = DEFAULT, count: int = 120) -> Judgement:
    """Photos tell fashion's categories apart, titles those of everything else."""
    of = categories(count)
    sees = around([kind if kind.startswith("fashion") else "other" for kind in of], 0.3)
    reads = around(["other" if kind.startswith("fashion") else kind for kind in of], 0.3, seed=1)
    random = {"random": lambda: cosines(baselines.random_vectors(count, 0))}
    return judged(part(of, image=sees, text=reads), Policy.parse(policy), random, seed=0)


def precision(told: Judgement, entry: str) -> dict[str, float]:
    (worth,) = [worth for worth in told.worth if worth.entry == entry]
    return dict(worth.precision)


def test_auto_is_the_space_that_the_policy_chooses_for_each_product() -> None:
    told = judgement("fashion=image,*=text")

    assert precision(told, "fashion")["image"] == pytest.approx(1, abs=0.01)
    assert (
        precision(told, "fashion")["AUTO"] == precision(told, "fashion")["image"] > precision(told, "fashion")["text"]
    )
    assert precision(told, "*")["AUTO"] == precision(told, "*")["text"] > precision(told, "*")["image"]
    assert precision(told, "all")["AUTO"] > max(precision(told, "all")["image"], precision(told, "all")["text"])


def test_what_a_policy_gains_over_one_space_has_an_interval() -> None:
    told = judgement("fashion=image,*=text")

    worth = told.worth[-1]
    assert (worth.entry, worth.queries) == ("all", 120)
    gain = worth.gain["image"]
    assert gain.value == pytest.approx(worth.precision["AUTO"] - worth.precision["image"])
    assert 0 < gain.low < gain.value < gain.high


def test_a_policy_the_wrong_way_round_shows_as_a_loss() -> None:
    told = judgement("fashion=text,*=image")

    assert told.worth[-1].gain["image"].high < 0
    assert told.worth[-1].gain["text"].high < 0


def test_a_space_that_is_not_built_is_passed_over() -> None:
    assert judgement(DEFAULT).chosen == judgement("fashion=image,*=text").chosen
    assert set(judgement("fashion=product,*=product").chosen) == {"image"}


def test_random_vectors_do_as_chance_expects_and_nothing_beats_the_best_possible() -> None:
    told = judgement()
    (random, _), *_ = told.baselines["random"].averages["category"]
    (chance, _), *_ = told.baselines[CHANCE].averages["category"]
    (best, _), *_ = told.baselines[CEILING].averages["category"]

    assert random.value == pytest.approx(chance.value, abs=0.03)
    assert told.auto.averages["category"][0].micro.value <= best.value == 1


def test_with_one_category_there_is_no_space_to_tell_from_another() -> None:
    told = judged(part(["a/b"] * 20, image=around(["a"] * 20, 1)), Policy.parse(DEFAULT), {}, seed=0)

    assert (list(told.labellings), told.trivial, told.main) == ([], ["category"], None)


def test_without_two_products_of_a_category_nothing_can_be_judged() -> None:
    with pytest.raises(OperatorError, match="of 3 held-out products with a vector in every space, no two"):
        judged(part(["a", "b", "c"], image=around(["a"] * 3, 1)), Policy.parse(DEFAULT), {}, seed=0)


def test_pictures_and_the_policy_are_judged_by_the_finest_level_that_tells() -> None:
    of = [f"{'ab'[number % 2]}/{number}" for number in range(40)]  # No two of one whole path.
    told = judged(part(of, image=around([path[0] for path in of], 0.1)), Policy.parse(DEFAULT), {}, seed=0)

    assert told.main is not None
    assert told.main.title == "level 1"
    assert told.trivial == ["category"]


def test_words_counted_find_titles_of_the_same_words_whatever_the_script() -> None:
    titles = ["赤いスニーカー", "Blue Mug", "【送料無料】スニーカー 赤い", "mug, blue!", "…"]
    scores = baselines.counted_words(titles, titles)(np.arange(5))

    np.testing.assert_allclose(np.diag(scores), [1, 1, 1, 1, 0], atol=1e-6)
    assert scores[0, 2] == pytest.approx(1)
    assert scores[1, 3] == pytest.approx(1)
    assert scores[0, 1] == 0


def test_titles_without_a_word_are_similar_to_nothing() -> None:
    np.testing.assert_array_equal(baselines.counted_words(["", "!"], ["", "!"])(np.arange(2)), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "''"),
        ("fashion=image", r"no entry for \*"),
        ("*=colour", "'\\*=colour'"),
        ("*=", "'\\*='"),
        ("=image,*=text", "'=image'"),
        ("*=image>image", "'\\*=image>image'"),
        ("*=image,*=text", r"\* is there already"),
        ("*=auto", "'\\*=auto'"),
    ],
)
def test_a_policy_that_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadSettings, match=why):
        Policy.parse(text)


def test_the_default_policy_is_the_gateways() -> None:
    assert Policy.parse(DEFAULT).text == ",".join(GatewaySettings().auto_policy)


@pytest.mark.parametrize("text", [DEFAULT, "*=text", "a/b=image>product,a=text,*=product>text", "a=product,*=image"])
@pytest.mark.parametrize("built", [("image", "text", "product"), ("image", "text"), ("text",), ("product",)])
def test_a_policy_chooses_as_the_gateway_does(text: str, built: tuple[str, ...]) -> None:
    ours, theirs = Policy.parse(text), AutoPolicy.parse(text.split(","), photo="image", text="text")
    has = [Space.Value(f"SPACE_{name.upper()}") for name in built]
    for category in ("a", "a/b", "a/b/c", "a/bc", "ab", "fashion", "fashion/shoes", "", "z"):
        (space,) = theirs.route_product(category, "p", has).spaces
        assert ours.space(category, built) == Space.Name(space).removeprefix("SPACE_").lower(), category
