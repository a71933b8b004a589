"""The split of products into training, calibration and test sets."""

from __future__ import annotations

import numpy as np

from encoders.splits import Split, split_of, splits_of

IDS = [f"product-{number}" for number in range(20_000)]


def test_70_percent_are_for_training_10_for_calibration_and_20_for_testing() -> None:
    shares = np.bincount(splits_of(IDS), minlength=3) / len(IDS)

    # Three standard deviations of a share of 20,000 are at most .01.
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.01)


def test_the_split_of_a_product_does_not_depend_on_the_others() -> None:
    ids = IDS[100:200:7]

    assert [Split(split) for split in splits_of(ids)] == [split_of(product_id) for product_id in ids]


def test_splits_do_not_change_between_releases() -> None:
    # Otherwise, after an upgrade, an existing encoder would be evaluated on its training products.
    assert (
        "".join(str(int(split_of(str(number)))) for number in range(40)) == "1000020000000200000000200000000200022010"
    )


def test_no_ids_and_ids_in_any_script_are_accepted() -> None:
    assert splits_of([]).shape == (0,)
    assert split_of("商品-１") in Split
