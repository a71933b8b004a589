"""The plan of a deployment: shards, machines, memory, disk, hours of the nightly update. Pure: formulas over constants.

Each figure names its formula and the constants in it. What lies outside of what was measured is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, log10

from index.backends import cost_model
from index.backends.recipe import NgtRecipe, resolve_recipe
from lookalike.errors import BadSettings
from pipeline.sizing import constants
from pipeline.sizing.constants import LARGE, RECIPES, SMALL, Constant

VERSIONS = 2  # Loaded, and on disk, while a version is rolled out.
MEASURED_SHARDS = 2  # The most that a gateway was measured with.
MAX_SHARDS = 4096  # As of `index build`.
_ROW_BYTES = 8  # On disk, per vector: which product it is of.
_FLOAT_BYTES = {"float32": 4, "float16": 2}
_FAR = 3  # A constant measured at less than a third of the size asked for is extrapolated.
_MANY = 1e12
_BOUNDS = {
    "products": (1, _MANY),
    "shard_products": (1, _MANY),
    "replicas": (1, 100),
    "cores": (1, 1024),
    "build_cores": (1, 1e6),
    "ram_gb": (0.5, 1e5),
    "load": (0.01, 1),
    "photo_hours": (0.01, 1e4),
    "qps": (0, 1e9),
    "events": (0, 1e9),
    "gpu_photos_per_s": (0, 1e9),
    "photo_events": (0, 1),
    "cache_hits": (0, 1),
    "changed": (0, 1),
}
_GB, _DAY_S, _HOUR_S = 1e9, 86_400, 3_600


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is asked of the deployment, and of what machines. Raises BadSettings, naming the setting."""

    products: int
    spaces: Mapping[str, int]  # Dimension by name.
    qps: float = 100.0  # Searches a second, at the peak.
    events: float = 0.0  # Changes of products a second, at the peak.
    photo_events: float = 0.1  # Share of the events with a new photo or title, to encode; the others are patches.
    cache_hits: float = 0.0  # Share of the searches that the result cache answers.
    recipe: str = "PCAR256,IVF,RaBitQfs"
    rescore: str = "float16"
    shard_products: int = 10_000_000  # The most in a shard.
    replicas: int = 2  # The fewest of each shard.
    cores: int = 16  # Of a shard's machine.
    ram_gb: float = 64.0  # Of a shard's machine.
    load: float = 0.5  # Busy share of the cores that is planned for.
    build_cores: int = 64  # Of the nightly update.
    changed: float = 0.01  # Share of the products whose photo is new at night.
    gpu_photos_per_s: float = 0.0  # Of one GPU, measured by you; 0: no GPU.
    photo_hours: float = 8.0  # In which GPUs are to encode all photos anew.

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise BadSettings(f"recipe {self.recipe!r}: measured are {' '.join(RECIPES)}")
        if self.rescore not in _FLOAT_BYTES:
            raise BadSettings(f"rescore {self.rescore!r}: allowed are {', '.join(_FLOAT_BYTES)}")
        if not self.spaces:
            raise BadSettings("spaces: at least one")
        for name, dim in self.spaces.items():
            if not 1 <= dim <= 1 << 16:
                raise BadSettings(f"spaces: {name}={dim}: a dimension is in 1..65536")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:  # Written so that NaN fails, too.
                raise BadSettings(f"{name} {value:g}: must be in {least:g}..{most:g}")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a plan."""

    name: str
    value: float
    unit: str
    formula: str
    constants: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """figures by key; parts: what a sum consists of, by the key of the sum."""

    demand: Demand
    figures: dict[str, Figure] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __getitem__(self, key: str) -> float:
        return self.figures[key].value

    def dominant(self, key: str) -> tuple[str, float]:
        """The largest part of a sum, and its share."""
        parts = self.parts[key]
        name = max(parts, key=lambda each: parts[each])
        return name, parts[name] / (sum(parts.values()) or 1)


def make_plan(demand: Demand) -> Plan:
    """Raises BadSettings where no number of shards fits the machines."""
    plan = Plan(demand=demand)
    _shards(plan)
    _searches(plan)
    _disk(plan)
    _events(plan)
    _update(plan)
    _warn(plan)
    return plan


def search_us(recipe: str, products: float) -> float:
    """CPU of a query at a shard's index: a power law through both sizes that it was measured at."""
    few, many = (1e6 / each for each in RECIPES[recipe].queries_per_s)
    return _power_law(few, many, products, least=0)


def index_cpu_s(recipe: str, products: float) -> float:
    """CPU of building the ANN index of one shard and space. It grows at least in proportion."""
    few, many = RECIPES[recipe].build_cpu_s
    twice = 2 if "SymQG" in recipe else 1  # It cannot hide the queries of the calibration: a second one is built.
    return twice * _power_law(few, many, products, least=1)


def _calibration(recipe: str) -> Constant:
    return constants.CALIBRATION_US if "IVF" in recipe else constants.CALIBRATION_GRAPH_US


def shard_bytes(demand: Demand, products: int) -> dict[str, float]:
    """Memory of a shard with so many products, by what takes it, both versions of a rollout loaded."""
    parts = {
        f"index of {space}": VERSIONS * index_bytes(demand.recipe, products, dim)
        for space, dim in demand.spaces.items()
    }
    parts["products"] = VERSIONS * products * constants.MEMORY_PER_PRODUCT.value
    parts["process"] = constants.PROCESS_BYTES.value
    return parts


def index_bytes(recipe: str, products: int, dim: int) -> float:
    """Memory of an index: by formula, and what a process of 1,000,000 such vectors was measured to take beyond it."""
    beyond = RECIPES[recipe].ram_bytes - _formula_bytes(recipe, LARGE, 1024) / LARGE
    return _formula_bytes(recipe, products, dim) + beyond * products


def _formula_bytes(recipe: str, products: int, dim: int) -> float:
    resolved = resolve_recipe(_fitting(recipe, dim), products, dim, 0)
    if resolved is None or isinstance(resolved, NgtRecipe):  # So few vectors that they are searched by brute force.
        return 0.0
    return cost_model.ram_bytes(resolved, products, dim)


def _fitting(recipe: str, dim: int) -> str:
    """The recipe without its rotation where a space has no more dimensions than that leaves."""
    rotation, _, rest = recipe.partition(",")
    return rest if rotation.startswith("PCAR") and int(rotation.removeprefix("PCAR")) > dim else recipe


def _power_law(few: float, many: float, products: float, *, least: float) -> float:
    exponent = max(log10(many / few) / log10(LARGE / SMALL), least)
    return many * float((products / LARGE) ** exponent)


def _add(  # noqa: PLR0917  # a table of figures: each in the same six columns
    plan: Plan, key: str, name: str, value: float, unit: str, formula: str, *used: Constant
) -> float:
    plan.figures[key] = Figure(
        name=name, value=value, unit=unit, formula=formula, constants=tuple(each.name for each in used)
    )
    return value


def _shards(plan: Plan) -> None:
    demand = plan.demand
    most_bytes = demand.ram_gb * _GB / 2  # The other half is for the page cache and what else runs there.
    shards = ceil(demand.products / demand.shard_products)
    while sum(shard_bytes(demand, ceil(demand.products / shards)).values()) > most_bytes:
        shards = ceil(shards * 1.1) if shards >= 10 else shards + 1
        if shards > MAX_SHARDS:
            raise BadSettings(f"ram_gb {demand.ram_gb:g}: {MAX_SHARDS} shards of {demand.recipe} do not fit")
    if shards > MAX_SHARDS:
        raise BadSettings(f"shard_products {demand.shard_products}: {shards} shards, at most {MAX_SHARDS}")
    _add(plan, "shards", "shards", shards, "", "products ÷ shard_products; more where half of ram_gb holds no shard")
    each = ceil(demand.products / shards)
    _add(plan, "shard_products", "products of a shard", each, "", "products ÷ shards")
    parts = plan.parts["shard_ram"] = {name: part / _GB for name, part in shard_bytes(demand, each).items()}
    used = constants.MEMORY_PER_PRODUCT, constants.PROCESS_BYTES
    formula = f"process + {VERSIONS} versions × (indexes, by formula and as measured beyond it, + memory of products)"
    _add(plan, "shard_ram", "memory of a shard's process", sum(parts.values()), "GB", formula, *used)


def _searches(plan: Plan) -> None:
    demand, shards = plan.demand, plan["shards"]
    computed = demand.qps * (1 - demand.cache_hits)
    found_us = search_us(demand.recipe, plan["shard_products"])
    _add(
        plan,
        "search_us",
        "CPU of finding candidates, a query and shard",
        found_us,
        "µs",
        f"{demand.recipe} at 1,000,000 × (products of a shard ÷ 1,000,000) ^ measured exponent",
    )
    parts = plan.parts["search_cores"] = {
        "finding candidates": computed * shards * found_us / 1e6,
        "calls of shards": computed * shards * constants.SHARD_US.value / 1e6,
        "gateways": (
            computed * (constants.GATEWAY_US.value + shards * constants.GATEWAY_SHARD_US.value)
            + demand.qps * demand.cache_hits * constants.CACHE_HIT_US.value
        )
        / 1e6,
    }
    calls = constants.GATEWAY_US, constants.GATEWAY_SHARD_US, constants.CACHE_HIT_US
    _add(
        plan,
        "gateway_cores",
        "cores of gateways, a process each",
        max(1, ceil(parts["gateways"] / demand.load)),
        "",
        "(qps × (1 − cache_hits) × (gateway + shards × per shard) + qps × cache_hits × hit) ÷ load",
        *calls,
    )
    one_shard = (parts["finding candidates"] + parts["calls of shards"]) / shards / demand.load
    _add(
        plan,
        "shard_cores",
        "cores of a shard, all replicas",
        one_shard,
        "",
        "qps × (1 − cache_hits) × (candidates + call of a shard) ÷ load",
        constants.SHARD_US,
    )
    replicas = max(demand.replicas, ceil(one_shard / demand.cores))
    _add(plan, "replicas", "replicas of a shard", replicas, "", "cores of a shard ÷ cores; at least replicas")
    machines = shards * replicas
    fit = _per_machine(plan)
    _add(
        plan,
        "machines",
        "machines of shards",
        max(replicas, ceil(machines / fit)),  # Two replicas on one machine would be lost together.
        "",
        f"shards × replicas ÷ {fit} that {demand.cores} cores and half of {demand.ram_gb:g} GB hold; at least replicas",
    )
    _add(plan, "ram", "memory of all shards", machines * plan["shard_ram"], "GB", "shards × replicas × a shard's")


def _per_machine(plan: Plan) -> int:
    """Shards on one machine: half its memory for their processes, and as many cores as their searches take."""
    demand = plan.demand
    by_ram = int(demand.ram_gb / 2 / plan["shard_ram"])
    by_cores = int(demand.cores / (max(plan["shard_cores"], 1e-9) / plan["replicas"]))
    return max(1, min(by_ram, by_cores, demand.cores))


def _disk(plan: Plan) -> None:
    demand, each = plan.demand, plan["shard_products"]
    vector_bytes = _FLOAT_BYTES[demand.rescore]
    codes_gb = sum(
        part for name, part in plan.parts["shard_ram"].items() if name.startswith("index of ")
    )  # Of both versions, as in memory.
    parts = plan.parts["shard_disk"] = {
        "full vectors": VERSIONS * each * sum(dim * vector_bytes for dim in demand.spaces.values()) / _GB,
        "codes": codes_gb,
        "rows": VERSIONS * each * len(demand.spaces) * _ROW_BYTES / _GB,
        "products": VERSIONS * each * constants.TABLE_BYTES.value / _GB,
    }
    formula = f"{VERSIONS} versions × (dims × bytes of {demand.rescore} + codes + 8 B of row per space + table)"
    disk_gb = _add(plan, "shard_disk", "disk of a shard", sum(parts.values()), "GB", formula, constants.TABLE_BYTES)
    copies = plan["shards"] * plan["replicas"]
    _add(plan, "disk", "disk of all shards", disk_gb * copies / 1e3, "TB", "shards × replicas × a shard's")
    pages = demand.qps * (1 - demand.cache_hits) * RECIPES[demand.recipe].rescored_pages / plan["replicas"]
    _add(
        plan,
        "reads",
        "disk reads of a replica, nothing cached",
        pages,
        "per s of 4 KiB",
        f"qps × (1 − cache_hits) × {RECIPES[demand.recipe].rescored_pages:g} pages ÷ replicas",
    )
    _add(
        plan,
        "ready_s",
        "start of a shard, files not cached",
        disk_gb / VERSIONS * constants.READY_S_PER_GB.value,
        "s",
        "disk of one version × start per GB",
        constants.READY_S_PER_GB,
    )


def _events(plan: Plan) -> None:
    demand = plan.demand
    photos = demand.events * demand.photo_events
    patches = demand.events - photos
    photo_ms = constants.PHOTO_MS.value + constants.DECODE_MS.value + constants.TITLE_US.value / 1e3
    _add(
        plan,
        "worker_cores",
        "cores of workers and their model servers",
        ceil(photos * photo_ms / 1e3 / demand.load),
        "",
        "events × photo_events × (photo + decoding + title) ÷ load; fetching, which waits, not counted",
        constants.PHOTO_MS,
        constants.DECODE_MS,
        constants.TITLE_US,
    )
    written = (photos * constants.UPSERT_US.value + patches * constants.PATCH_US.value) / 1e6
    _add(
        plan,
        "change_cores",
        "cores of changes, all shards",
        written * plan["replicas"] / demand.load,
        "",
        "(encoded × upsert + others × patch) × replicas ÷ load",
        constants.UPSERT_US,
        constants.PATCH_US,
    )
    share = (photos / constants.UPSERT_RATE.value + patches / constants.PATCH_RATE.value) / plan["shards"]
    _add(
        plan,
        "write_share",
        "of the most changes that a shard takes",
        share,
        "",
        "(encoded ÷ most upserts + others ÷ most patches) ÷ shards",
        constants.UPSERT_RATE,
        constants.PATCH_RATE,
    )
    vectors = sum(4 * dim for dim in demand.spaces.values())
    logged = photos * (constants.LOG_UPSERT_OVERHEAD.value + vectors) + patches * constants.LOG_PATCH_BYTES.value
    _add(
        plan,
        "log_gb",
        "write-ahead logs of a day, all shards, one replica",
        logged * _DAY_S / _GB,
        "GB",
        "(encoded × (4 B × dims + product) + others × patch) × 86,400 s; a compaction drops what it has merged",
        constants.LOG_UPSERT_OVERHEAD,
        constants.LOG_PATCH_BYTES,
    )


def _update(plan: Plan) -> None:
    demand, shards, each = plan.demand, plan["shards"], plan["shard_products"]
    read_h = demand.products * constants.READ_US.value / 1e6 / _HOUR_S
    photo_s = (constants.PHOTO_MS.value + constants.DECODE_MS.value) / 1e3
    beside = _calibration(demand.recipe)
    shard_s = index_cpu_s(demand.recipe, each) + each * beside.value / 1e6
    spaces = len(demand.spaces)
    cores = demand.build_cores * _HOUR_S
    # A shard's index is built on one core at the least: more cores than indexes do not help.
    build_h = max(shard_s / _HOUR_S, spaces * shards * shard_s / cores)
    files = plan["disk"] * 1e12 / VERSIONS / plan["replicas"]
    parts = plan.parts["update_h"] = {
        "reading the catalogue": read_h,
        "encoding photos": demand.products * demand.changed * photo_s / cores if "image" in demand.spaces else 0.0,
        "encoding titles": demand.products * constants.TITLE_US.value / 1e6 / cores if "text" in demand.spaces else 0.0,
        "building shards": build_h,
        "checksums": files / constants.SHA256_RATE.value / cores,
        "start of the shards": plan["ready_s"] / _HOUR_S,
    }
    used = constants.READ_US, constants.PHOTO_MS, constants.DECODE_MS, constants.TITLE_US, beside
    formula = (
        "reading (one core) + (changed photos + all titles + indexes + checksums) ÷ build_cores + start of a shard"
    )
    _add(plan, "update_h", "nightly update, with all photos kept", sum(parts.values()), "h", formula, *used)
    if "image" not in demand.spaces:
        return
    all_photos = demand.products * photo_s / _HOUR_S
    _add(
        plan,
        "reencode_core_h",
        "encoding all photos anew",
        all_photos,
        "core-hours",
        "products × (photo + decoding)",
        constants.PHOTO_MS,
        constants.DECODE_MS,
    )
    gpus = 0
    if demand.gpu_photos_per_s:
        gpus = ceil(demand.products / demand.gpu_photos_per_s / (demand.photo_hours * _HOUR_S))
    formula = "products ÷ gpu_photos_per_s ÷ photo_hours; 0 where gpu_photos_per_s is not given: none was measured"
    _add(plan, "gpus", "GPUs to encode all photos anew", gpus, "", formula)


def _warn(plan: Plan) -> None:
    demand, each, warn = plan.demand, int(plan["shard_products"]), plan.warnings.append
    if each > LARGE:
        warn(
            f"recall, search, memory and build of {demand.recipe} were measured with at most {LARGE:,} vectors in a "
            f"shard; {each:,} is {each / LARGE:.3g} times that: extrapolated"
        )
    elif each < SMALL / _FAR:
        warn(
            f"search and build of {demand.recipe} were measured from {SMALL:,} vectors in a shard; {each:,}: less sure"
        )
    if plan["shards"] > MEASURED_SHARDS:
        warn(
            f"a gateway was measured with at most {MEASURED_SHARDS} shards; {plan['shards']:,} is extrapolated, "
            "and the slowest decides how long a search takes: see the tail in docs/sizing.md"
        )
    sizes = {
        constants.TABLE_BYTES: each,
        _calibration(demand.recipe): each,
        constants.READ_US: demand.products,
        **({constants.TITLE_US: demand.products} if "text" in demand.spaces else {}),
        **({constants.PATCH_US: each, constants.UPSERT_US: each} if demand.events else {}),
    }
    for constant, size in sizes.items():
        if size > _FAR * constant.largest:
            warn(f"{constant.name}: measured at {constant.measured_at}; {size:,} is extrapolated")
    if plan["write_share"] > demand.load:
        warn(
            f"a shard would take {plan['write_share']:.2g} times the most changes that it was measured with: more "
            "shards or fewer events would do"
        )
    if plan["replicas"] > 1:
        warn("a gateway knows one address per shard: replicas need a balancer between; hedging does not exist yet")
    if any(dim != 1024 for dim in demand.spaces.values()):
        warn("search and build were measured with 1024 dimensions: an upper bound for spaces with fewer")
    if "text" in demand.spaces or "product" in demand.spaces:
        warn("training of text and product encoders is not in the hours: it was not measured at this size")
