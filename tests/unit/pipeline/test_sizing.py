"""Sizing: constants are those of the results, formulas keep units and bounds, the page is what the command computes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lookalike.errors import BadSettings
from pipeline.sizing import command, constants, plan
from pipeline.sizing.constants import RECIPES, Constant
from pipeline.sizing.plan import Demand, make_plan

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "sizing.md").read_text(encoding="utf-8")
SPACES = {"image": 1024, "text": 512, "product": 256}
DEMAND = Demand(products=100_000_000, spaces=SPACES, qps=500, events=1_000)


def result(name: str) -> Any:
    return json.loads((REPOSITORY / "benchmarks" / "results" / f"{name}.json").read_text())


def _calls() -> tuple[float, float, float]:
    """CPU of a search at 16 in flight: at the gateway, there for each shard, and at a shard beside its index."""
    cells = {
        row["system"]: {cell["inflight"]: cell["cpu_us"] for cell in row["cells"]} for row in result("serving")["rows"]
    }
    one, two = (cells[f"gateway PCAR256,SymQG32{shards}"][16] for shards in ("", ", 2 shards"))
    whole, half = (plan.search_us("PCAR256,SymQG32", products) for products in (100_000, 50_000))
    further = two - one - (2 * half - whole)  # What a shard adds to gateway and shard, without its search.
    gateway = one - whole - further
    readme = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    threads = re.findall(r"^\| gateway: [^|]+ \| (\d+) \|", readme, re.MULTILINE)
    assert len(threads) == 2
    per_shard = (sum(map(float, threads)) - gateway) / 2
    return gateway, per_shard, further - per_shard


def _calibration_us(recipe: str, indexes: int) -> float:
    """What a whole build takes for each further vector, less what its indexes take."""
    rows = result("index_builds")["rows"][recipe]
    whole = (rows["40000"]["cpu_s"] - rows["10000"]["cpu_s"]) / 30_000
    few, many = RECIPES[recipe].build_cpu_s
    index = (plan._power_law(few, many, 40_000, least=0) - plan._power_law(few, many, 10_000, least=0)) / 30_000
    return float(whole - indexes * index) * 1e6


MEASURED: list[tuple[Constant, Callable[[], float]]] = [
    (constants.PROCESS_BYTES, lambda: result("shard_start")["own_mb_with_1000_vectors"] * 1e6),
    (
        constants.MEMORY_PER_PRODUCT,
        lambda: result("shard_start")["indexes"]["PCAR128,IVF,RaBitQ@0.9"]["own_bytes_per_vector"] - 27.6,
    ),
    (constants.TABLE_BYTES, lambda: result("product_bytes")["per_product"]["file_bytes"]),
    (constants.SHA256_RATE, lambda: result("swap")["verify"]["gb_per_cpu_s"] * 1e9),
    (
        constants.READY_S_PER_GB,
        lambda: (
            (row := result("shard_start")["indexes"]["PCAR128,IVF,RaBitQ@0.95"])["ready_s"]["out of the page cache"]
            / row["files_gb"]
        ),
    ),
    (constants.PHOTO_MS, lambda: result("image_model")["rows"][0]["cpu_ms_batch_8"]),
    (constants.DECODE_MS, lambda: result("image_queries")["photo_queries"]["400 px"]["cpu_ms_of_decoding"]),
    (constants.TITLE_US, lambda: result("text_features")["offers"]["cpu_us_per_title"]["hybrid"]["64"]),
    (
        constants.READ_US,
        lambda: (row := result("catalogue_import"))["cpu_s"] / row["rows"] * 1e6,
    ),
    (constants.PATCH_US, lambda: result("change_stream")["patches"]["node, cpu_us per change"]),
    (constants.UPSERT_US, lambda: result("change_stream")["upserts"]["node, cpu_us per change"]),
    (constants.PATCH_RATE, lambda: result("change_stream")["patches"]["per_s"]),
    (constants.UPSERT_RATE, lambda: result("change_stream")["upserts"]["per_s"]),
    (
        constants.LOG_UPSERT_OVERHEAD,
        lambda: (row := result("product_bytes"))["log_bytes_per_change"]["upsert, 1 a write"] - 4 * sum(row["dims"]),
    ),
    (
        constants.LOG_PATCH_BYTES,
        lambda: result("product_bytes")["log_bytes_per_change"]["patch of price and stock, 1 a write"],
    ),
    (constants.CACHE_HIT_US, lambda: result("cache_hits")["rows"]["memory"]["cpu_us"]),
    (constants.GATEWAY_US, lambda: _calls()[0]),
    (constants.GATEWAY_SHARD_US, lambda: _calls()[1]),
    (constants.SHARD_US, lambda: _calls()[2]),
    (constants.CALIBRATION_US, lambda: _calibration_us("PCAR256,IVF,RaBitQfs", 1)),
    (constants.CALIBRATION_GRAPH_US, lambda: _calibration_us("PCAR256,SymQG32", 2)),
]


@pytest.mark.parametrize(("constant", "measured"), MEASURED, ids=lambda each: getattr(each, "name", ""))
def test_a_constant_is_what_the_result_that_it_names_says(constant: Constant, measured: Callable[[], float]) -> None:
    assert constant.value == pytest.approx(measured(), rel=0.01)
    assert (REPOSITORY / "benchmarks" / "results" / constant.source.split()[0].rstrip(",")).is_file()


def test_every_constant_is_held_against_its_result() -> None:
    assert {id(each) for each, _ in MEASURED} == {id(each) for each in command.all_constants()}


@pytest.mark.parametrize("name", RECIPES)
def test_the_constants_of_a_recipe_are_those_of_the_two_tables(name: str) -> None:
    for at, table in enumerate(("ngt_comparison_100000", "ngt_comparison_1000000_graphs")):
        (row,) = [each for each in result(table)["rows"] if (each["contender"], each["recall_target"]) == (name, 0.95)]
        assert row["recall"] >= constants.RECALL
        assert RECIPES[name].queries_per_s[at] == row["qps"]
        assert RECIPES[name].build_cpu_s[at] == row["build_cpu_s"]
    assert RECIPES[name].ram_bytes == row["ram_bytes_per_vector"]
    assert RECIPES[name].rescored_pages == row["cold_pages_read_at_random"]


@pytest.mark.parametrize("name", RECIPES)
def test_memory_is_what_was_measured_at_that_size_and_never_less_than_the_formula(name: str) -> None:
    assert plan.index_bytes(name, 1_000_000, 1024) == pytest.approx(RECIPES[name].ram_bytes * 1e6)
    for products, dim in ((30_000_000, 1024), (1_000_000, 256)):
        assert plan.index_bytes(name, products, dim) >= plan._formula_bytes(name, products, dim) > 0


@pytest.mark.parametrize("name", RECIPES)
def test_at_the_measured_sizes_the_formulas_give_what_was_measured(name: str) -> None:
    recipe, builds = RECIPES[name], 2 if "SymQG" in name else 1
    assert [plan.search_us(name, n) for n in (100_000, 1_000_000)] == pytest.approx(
        [1e6 / each for each in recipe.queries_per_s]
    )
    assert plan.index_cpu_s(name, 1_000_000) == pytest.approx(builds * recipe.build_cpu_s[1])


@pytest.mark.parametrize("name", RECIPES)
def test_a_build_grows_at_least_in_proportion(name: str) -> None:
    assert plan.index_cpu_s(name, 20_000_000) >= 2 * plan.index_cpu_s(name, 10_000_000)


@pytest.mark.parametrize("key", ["shards", "machines", "ram", "disk", "update_h", "reencode_core_h", "gateway_cores"])
def test_more_products_take_no_less(key: str) -> None:
    values = [make_plan(replace(DEMAND, products=10**exponent))[key] for exponent in range(6, 11)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_more_searches_take_more_replicas_and_gateways_and_no_more_shards() -> None:
    few, many = make_plan(DEMAND), make_plan(replace(DEMAND, qps=50_000))
    assert many["shards"] == few["shards"]
    assert many["replicas"] > few["replicas"]
    assert many["gateway_cores"] > few["gateway_cores"]


def test_what_the_cache_answers_reaches_no_shard() -> None:
    cached = make_plan(replace(DEMAND, cache_hits=1.0))
    assert cached["shard_cores"] == 0
    assert cached["reads"] == 0
    assert cached.parts["search_cores"]["gateways"] == pytest.approx(500 * constants.CACHE_HIT_US.value / 1e6)


def test_shards_that_do_not_fit_into_half_of_a_machine_become_more() -> None:
    plan_of = make_plan(replace(DEMAND, recipe="SymQG32", ram_gb=64))
    assert plan_of["shards"] > 10
    assert plan_of["shard_ram"] <= 32


def test_replicas_of_a_shard_are_on_different_machines() -> None:
    assert make_plan(replace(DEMAND, products=1_000_000))["machines"] == 2


def test_memory_and_disk_hold_both_versions_of_a_rollout() -> None:
    one = Demand(products=1_000_000, spaces={"image": 1024}, rescore="float32")
    codes = 67.0 * 1e6
    made = make_plan(one)
    assert made["shard_ram"] * 1e9 == pytest.approx(2 * (codes + 1.9e6) + 70e6)
    assert made["shard_disk"] * 1e9 == pytest.approx(2 * (codes + 1e6 * (4096 + 8 + 586.27)))


def test_without_gpus_none_is_planned_and_with_them_as_many_as_encode_all_photos_in_time() -> None:
    assert make_plan(DEMAND)["gpus"] == 0
    assert make_plan(replace(DEMAND, gpu_photos_per_s=1_000, photo_hours=10))["gpus"] == 3  # 2.8 without rounding.


def test_a_plan_says_what_is_extrapolated_and_from_what() -> None:
    warnings = "\n".join(make_plan(DEMAND).warnings)
    assert "at most 1,000,000 vectors in a shard; 10,000,000 is 10 times that: extrapolated" in warnings
    assert "at most 2 shards; 10 is extrapolated" in warnings


def test_a_plan_within_what_was_measured_warns_of_no_size() -> None:
    small = Demand(products=100_000, spaces={"image": 1024}, replicas=1)
    assert make_plan(small).warnings == []


def test_more_changes_than_a_shard_was_measured_to_take_are_a_warning() -> None:
    warnings = make_plan(replace(DEMAND, products=10_000_000, events=7_000)).warnings
    assert any("most changes" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"recipe": "IVF,Magic"}, "recipe 'IVF,Magic'"),
        ({"products": 0}, "products 0"),
        ({"qps": float("nan")}, "qps nan"),
        ({"qps": -1}, "qps -1"),
        ({"load": 0}, "load 0"),
        ({"cache_hits": 1.5}, "cache_hits 1.5"),
        ({"rescore": "int8"}, "rescore 'int8'"),
        ({"spaces": {}}, "spaces"),
        ({"spaces": {"image": 0}}, "image=0"),
        ({"products": 10**12, "recipe": "SymQG32", "ram_gb": 1}, "do not fit|at most 4096"),
    ],
)
def test_bad_settings_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(BadSettings, match=named):
        make_plan(replace(DEMAND, **wrong))


@pytest.mark.parametrize(
    ("text", "count"), [("10M", 10_000_000), ("1.5B", 1_500_000_000), ("250000", 250_000), ("20k", 20_000)]
)
def test_counts_may_have_a_suffix(text: str, count: int) -> None:
    assert command.parse_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "-5", "10G", "many", "1e6", "0.1"])
def test_what_is_no_count_is_refused_with_examples(text: str) -> None:
    with pytest.raises(BadSettings, match=r"250000, 10M and 1\.5B are"):
        command.parse_count(text)


@pytest.mark.parametrize("text", ["", "photo", "image,image", "image=big", "image=-1"])
def test_bad_spaces_are_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="--spaces"):
        command.parse_spaces(text)


def test_the_json_has_a_formula_for_every_figure_and_the_constants_that_they_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--products", "100M", "--events", "1000", "--json"], {}) == 0
    (made,) = json.loads(capsys.readouterr().out)
    listed = {each["name"] for each in made["constants"]}
    assert all(figure["formula"] for figure in made["figures"].values())
    assert {name for figure in made["figures"].values() for name in figure["constants"]} == listed
    assert made["warnings"]


COMMANDS = re.findall(r"```sh\nlookalike sizing (.*)\n```\n\n((?:\|.*\n)+)", PAGE)


def test_the_page_has_tables_of_the_command() -> None:
    assert len(COMMANDS) == 2


@pytest.mark.parametrize(("arguments", "table"), COMMANDS)
def test_a_table_of_the_page_is_what_its_command_computes(
    arguments: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(arguments.split(), {})
    assert capsys.readouterr().out == table


def test_the_table_of_tails_in_the_page_is_that_of_the_simulation() -> None:
    for name, row in result("tail_latency")["rows"].items():
        cells = [
            " / ".join(f"{row['by_shards'][shards][each]:.3g}" for each in ("p50_ms", "p99_ms", "p99_9_ms"))
            for shards in ("1", "4", "16", "64", "256")
        ]
        assert f"| {name} | {' | '.join(cells)} | {row['extra_load']:.1%} |" in PAGE
