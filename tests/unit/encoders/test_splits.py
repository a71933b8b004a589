"""Which products are learnt from, and which judge."""

from __future__ import annotations

import numpy as np

from encoders.splits import Split, split_of, splits_of

IDS = [f"product-{number}" for number in range(20_000)]


def test_of_ten_products_seven_are_learnt_from_one_calibrates_and_two_judge() -> None:
    shares = np.bincount(splits_of(IDS), minlength=3) / len(IDS)

    # Three standard deviations of a share of 20,000 are at most .01.
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.01)


def test_a_product_is_on_the_same_side_whatever_else_there_is() -> None:
    some = IDS[100:200:7]

    assert [Split(split) for split in splits_of(some)] == [split_of(each) for each in some]


def test_sides_stay_what_they_were() -> None:
    # An encoder that was trained before must not be judged by what it learnt from after an upgrade.
    assert (
        "".join(str(int(split_of(str(number)))) for number in range(40)) == "1000020000000200000000200000000200022010"
    )


def test_no_product_and_any_script_are_fine() -> None:
    assert splits_of([]).shape == (0,)
    assert split_of("商品-１") in Split
