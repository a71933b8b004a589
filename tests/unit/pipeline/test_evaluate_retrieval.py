"""The evaluation of spaces, baselines and AUTO's policy on test products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lookalike.errors import BadSettings, OperatorError
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32
from pipeline.evaluation import baselines
from pipeline.evaluation.held_out import ProductSample
from pipeline.evaluation.metrics import cosines
from pipeline.evaluation.policy import DEFAULT, SpacePolicy
from pipeline.evaluation.retrieval import CEILING, CHANCE, RetrievalEvaluation, evaluate_retrieval
from server.policy import AutoPolicy
from server.settings import GatewaySettings
from tests.unit.pipeline.indexes import categories, clustered_vectors


def product_sample(product_categories: Sequence[str], **vectors: F32) -> ProductSample:
    products = [Product(id=f"p{number}", category=category) for number, category in enumerate(product_categories)]
    return ProductSample(products=products, vectors=vectors)


def evaluate(policy: str = DEFAULT, count: int = 120) -> RetrievalEvaluation:
    """Image vectors distinguish the categories of fashion, text vectors those of everything else."""
    product_categories = categories(count)
    image = clustered_vectors([name if name.startswith("fashion") else "other" for name in product_categories], 0.3)
    text = clustered_vectors(
        ["other" if name.startswith("fashion") else name for name in product_categories], 0.3, seed=1
    )
    random = {"random": lambda: cosines(baselines.random_vectors(count, 0))}
    return evaluate_retrieval(
        product_sample(product_categories, image=image, text=text), SpacePolicy.parse(policy), random, seed=0
    )


def precision(evaluation: RetrievalEvaluation, entry: str) -> dict[str, float]:
    (gain,) = [gain for gain in evaluation.policy_gains if gain.entry == entry]
    return dict(gain.precision)


def test_auto_uses_the_space_that_the_policy_chooses_for_each_product() -> None:
    evaluation = evaluate("fashion=image,*=text")

    assert precision(evaluation, "fashion")["image"] == pytest.approx(1, abs=0.01)
    assert (
        precision(evaluation, "fashion")["AUTO"]
        == precision(evaluation, "fashion")["image"]
        > precision(evaluation, "fashion")["text"]
    )
    assert (
        precision(evaluation, "*")["AUTO"] == precision(evaluation, "*")["text"] > precision(evaluation, "*")["image"]
    )
    assert precision(evaluation, "all")["AUTO"] > max(
        precision(evaluation, "all")["image"], precision(evaluation, "all")["text"]
    )


def test_the_gain_of_the_policy_over_one_space_has_an_interval() -> None:
    evaluation = evaluate("fashion=image,*=text")

    last = evaluation.policy_gains[-1]
    assert (last.entry, last.queries) == ("all", 120)
    gain = last.gain["image"]
    assert gain.value == pytest.approx(last.precision["AUTO"] - last.precision["image"])
    assert 0 < gain.low < gain.value < gain.high


def test_a_policy_that_chooses_the_worse_spaces_has_a_negative_gain() -> None:
    evaluation = evaluate("fashion=text,*=image")

    assert evaluation.policy_gains[-1].gain["image"].high < 0
    assert evaluation.policy_gains[-1].gain["text"].high < 0


def test_the_policy_skips_spaces_that_the_index_does_not_have() -> None:
    assert evaluate(DEFAULT).chosen_spaces == evaluate("fashion=image,*=text").chosen_spaces
    assert set(evaluate("fashion=product,*=product").chosen_spaces) == {"image"}


def test_random_vectors_score_like_chance_and_nothing_beats_the_best_possible() -> None:
    evaluation = evaluate()
    (random, _), *_ = evaluation.baselines["random"].averages["category"]
    (chance, _), *_ = evaluation.baselines[CHANCE].averages["category"]
    (best, _), *_ = evaluation.baselines[CEILING].averages["category"]

    assert random.value == pytest.approx(chance.value, abs=0.03)
    assert evaluation.auto.averages["category"][0].micro.value <= best.value == 1


def test_with_one_category_no_labelling_is_informative() -> None:
    evaluation = evaluate_retrieval(
        product_sample(["a/b"] * 20, image=clustered_vectors(["a"] * 20, 1)), SpacePolicy.parse(DEFAULT), {}, seed=0
    )

    assert (list(evaluation.labellings), evaluation.uninformative, evaluation.main_labelling) == (
        [],
        ["category"],
        None,
    )


def test_without_two_products_of_a_category_nothing_can_be_evaluated() -> None:
    with pytest.raises(OperatorError, match="of 3 held-out products with a vector in every space, no two"):
        evaluate_retrieval(
            product_sample(["a", "b", "c"], image=clustered_vectors(["a"] * 3, 1)),
            SpacePolicy.parse(DEFAULT),
            {},
            seed=0,
        )


def test_the_main_labelling_is_the_finest_informative_level() -> None:
    product_categories = [
        f"{'ab'[number % 2]}/{number}" for number in range(40)
    ]  # No two products have the same whole path.
    evaluation = evaluate_retrieval(
        product_sample(product_categories, image=clustered_vectors([path[0] for path in product_categories], 0.1)),
        SpacePolicy.parse(DEFAULT),
        {},
        seed=0,
    )

    assert evaluation.main_labelling is not None
    assert evaluation.main_labelling.title == "level 1"
    assert evaluation.uninformative == ["category"]


def test_tfidf_finds_titles_of_the_same_words_in_any_script() -> None:
    titles = ["赤いスニーカー", "Blue Mug", "【送料無料】スニーカー 赤い", "mug, blue!", "…"]
    scores = baselines.tfidf_query_scores(titles, titles, titles)(np.arange(5))

    np.testing.assert_allclose(np.diag(scores), [1, 1, 1, 1, 0], atol=1e-6)
    assert scores[0, 2] == pytest.approx(1)
    assert scores[1, 3] == pytest.approx(1)
    assert scores[0, 1] == 0


def test_titles_without_words_have_tfidf_scores_of_zero() -> None:
    titles = ["", "!"]
    np.testing.assert_array_equal(baselines.tfidf_query_scores(titles, titles, titles)(np.arange(2)), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "''"),
        ("fashion=image", r"no entry for \*"),
        ("*=colour", "'\\*=colour'"),
        ("*=", "'\\*='"),
        ("=image,*=text", "'=image'"),
        ("*=image>image", "'\\*=image>image'"),
        ("*=image,*=text", r"\* has an entry already"),
        ("*=auto", "'\\*=auto'"),
    ],
)
def test_an_invalid_policy_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        SpacePolicy.parse(text)


def test_the_default_policy_is_that_of_the_gateway() -> None:
    assert SpacePolicy.parse(DEFAULT).text == ",".join(GatewaySettings().auto_policy)


@pytest.mark.parametrize("text", [DEFAULT, "*=text", "a/b=image>product,a=text,*=product>text", "a=product,*=image"])
@pytest.mark.parametrize("available", [("image", "text", "product"), ("image", "text"), ("text",), ("product",)])
def test_a_policy_chooses_the_same_spaces_as_the_gateway(text: str, available: tuple[str, ...]) -> None:
    policy, gateway_policy = SpacePolicy.parse(text), AutoPolicy.parse(text.split(","), photo="image", text="text")
    numbers = [Space.Value(f"SPACE_{name.upper()}") for name in available]
    for category in ("a", "a/b", "a/b/c", "a/bc", "ab", "fashion", "fashion/shoes", "", "z"):
        (space,) = gateway_policy.route_product(category, "p", numbers).spaces
        assert policy.choose_space(category, available) == Space.Name(space).removeprefix("SPACE_").lower(), category
