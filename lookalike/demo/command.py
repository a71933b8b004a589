"""`lookalike demo`: the whole system on this machine, with real answers. Starts processes and writes files."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lookalike.cli import render
from lookalike.cli.render import printable
from lookalike.client import Client
from lookalike.demo.new_product import PRODUCT_ID, draw_new_product, published
from lookalike.demo.preparation import BuiltIndex, ExportedModels, Preparation
from lookalike.demo.queries import FASHION, DemoQuery, demo_queries
from lookalike.errors import InvalidRequest, NotFound, OperatorError
from lookalike.local import probes, process_specs, serve
from lookalike.local.process_specs import ProcessSpec
from lookalike.local.supervisor import Supervisor
from lookalike.runtime import directory_lock
from lookalike.stream.settings import StreamSettings
from lookalike.v1.types_pb2 import Product

EXAMPLES = """\
examples:
  lookalike demo                         with a sample catalogue; runs until Ctrl-C
  lookalike demo --once                  the same, but stops after the answers
  lookalike demo --catalog my-products   with your own catalogue; check it first with `lookalike catalog check`
  lookalike demo --weights mobilenet.h5  with your own image weights; the default is to download ImageNet's

The first start builds everything below --state; later starts rebuild only what has changed.
"""
METRICS_PORT = 9090  # The default of `lookalike load`.
READY_TIMEOUT_S = 300.0  # A busy laptop takes a minute to load TensorFlow.
QUERY_PRODUCTS = 200  # How many fashion products, and how many others, the demo queries are chosen from.


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser(environ).parse_args(argv)
    console = Console(highlight=False)
    state = options.state.resolve()
    with _exclusive(state), Supervisor(state / "logs", environ, directory=process_specs.ROOT) as processes:
        started_s = time.monotonic()
        preparation = Preparation(console, processes.run, state)
        catalogue = preparation.prepare_catalogue(options.catalog.resolve() if options.catalog else None)
        models = preparation.export_models(options.weights)
        index, model_server, redis = _prepare_index(processes, preparation, catalogue, models)
        port, metrics_port = _choose_port(console, options.port), _choose_metrics_port()
        node = _serve(processes, index, model_server, redis, port=port, metrics_port=metrics_port)
        new_photos = state / "new-photos"
        stream = _serve_events(
            processes, index, model_server, node, [catalogue, new_photos], directory=state / "stream"
        )
        _print_summary(console, index, models, node)
        with Client(node.address) as client:
            queries = demo_queries(_some_products(client), catalogue, index.spaces)
            _run_queries(console, client, queries, started_s)
            if stream is not None:
                _publish_product(console, client, stream, catalogue, new_photos)
        if not options.once:
            _print_example_commands(console, index, node, metrics_port)
            with contextlib.suppress(KeyboardInterrupt):
                processes.watch()
    return 0


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike demo",
        description="Run the whole system on this machine and show real answers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--once", action="store_true", help="stop after the answers")
    parser.add_argument("--catalog", type=Path, metavar="DIR", help="your catalogue (default: a drawn sample)")
    parser.add_argument("--port", type=int, default=50051, help="gRPC port (default: %(default)s)")
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(".demo"),
        help="directory for all that the demo builds (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        default=environ.get("LOOKALIKE_DEMO_WEIGHTS", ""),
        metavar="imagenet|untrained|FILE",
        help="of the image model [LOOKALIKE_DEMO_WEIGHTS, default: imagenet, or untrained if the download fails]",
    )
    return parser


@contextlib.contextmanager
def _exclusive(state: Path) -> Iterator[None]:
    """Lock the state directory. Raises OperatorError while another demo holds the lock."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = directory_lock.try_acquire(state)
    except OSError as error:
        raise OperatorError(f"{state}: {error.strerror}; choose another directory with --state") from error
    if lock is None:
        raise OperatorError(f"another demo runs in {state}: stop it or choose another directory with --state")
    with lock:
        yield


def _choose_port(console: Console, preferred: int) -> int:
    if probes.is_port_free(preferred):
        return preferred
    (port,) = probes.free_ports(1, exclude=(preferred,))
    console.print(f"[yellow]Port {preferred} is already in use: this demo uses {port} instead.[/]")
    return port


def _choose_metrics_port() -> int:
    return METRICS_PORT if probes.reserve_port(METRICS_PORT) else probes.free_ports(1)[0]


def _prepare_index(
    processes: Supervisor, preparation: Preparation, catalogue: Path, models: ExportedModels
) -> tuple[BuiltIndex, ProcessSpec, ProcessSpec | None]:
    """An up-to-date index, and the processes that start first: the model server, which a build needs, and Redis."""
    redis_port, model_port = probes.free_ports(2)
    redis = _redis_spec(processes, redis_port)
    model_server = process_specs.model_server(models.directory, model_port)
    _start(processes, *filter(None, [redis]), model_server)
    if (index := preparation.cached_index(catalogue, models)) is None:
        processes.wait_ready(timeout_s=READY_TIMEOUT_S)
        index = preparation.build_index(catalogue, models, model_server.address)
    return index, model_server, redis


def _serve(
    processes: Supervisor,
    index: BuiltIndex,
    model_server: ProcessSpec,
    redis: ProcessSpec | None,
    *,
    port: int,
    metrics_port: int,
) -> ProcessSpec:
    """Start the text encoder and the node together; return the node once both are ready."""
    # Chosen after the build, which may take an hour: meanwhile any connection could get a port that was chosen before.
    (text_port,) = probes.free_ports(1, exclude=(port, metrics_port))
    text_encoder = process_specs.text_encoder(index.location, text_port) if "text" in index.spaces else None
    node = process_specs.node(
        index.location,
        port,
        live_dir=index.location.parent / "live",
        metrics_port=metrics_port,
        model_server=model_server,
        text_encoder=text_encoder,
        redis=redis,
    )
    _start(processes, *filter(None, [text_encoder]), node)
    processes.wait_ready(timeout_s=READY_TIMEOUT_S)
    return node


def _serve_events(
    processes: Supervisor,
    index: BuiltIndex,
    model_server: ProcessSpec,
    node: ProcessSpec,
    photos: Sequence[Path],
    *,
    directory: Path,
) -> ProcessSpec | None:
    """Start the stream of product events and a worker; None without Redis."""
    if (executable := process_specs.redis_executable()) is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    stream_port, worker_port = probes.free_ports(2)
    stream = process_specs.stream(executable, directory, stream_port)
    worker = process_specs.worker(
        stream,
        node,
        worker_port,
        model_server=model_server,
        features=index.location / ".features",  # Of `lookalike update`, too.
        photos=photos,
    )
    _start(processes, stream, worker)
    processes.wait_ready(timeout_s=READY_TIMEOUT_S)
    return stream


def _publish_product(console: Console, client: Client, stream: ProcessSpec, catalogue: Path, photos: Path) -> None:
    """Publish a product that is not in the catalogue, and print the search that finds it."""
    settings = StreamSettings(url=f"redis://{stream.address}")
    if (new := draw_new_product(_some_products(client), catalogue, photos)) is None:
        return
    with published(settings, client, new) as (response, found_s):
        what = f"the event of a new product, {PRODUCT_ID}, {'with a photo' if new.photo else 'without a photo'}"
        console.print(Text(f"Published {what}: found {found_s:.2f} s later.", "bold"))
        console.print(render.table(response, without=("shop",)))
        console.print(render.provenance(response.provenance), "\n")


def _redis_spec(processes: Supervisor, port: int) -> ProcessSpec | None:
    """Redis if it is installed; without it the node caches results in its own memory."""
    executable = process_specs.redis_executable()
    return None if executable is None else process_specs.redis(executable, processes.logs, port)


def _start(processes: Supervisor, *specs: ProcessSpec) -> None:
    for spec in specs:
        processes.start(spec.name, spec.command, ready=spec.ready)


def _some_products(client: Client) -> list[Product]:
    """The products that the demo queries are chosen from, fashion and others, by rising id."""
    fashion = client.list(category_in=[FASHION], limit=QUERY_PRODUCTS)
    others = client.list(category_not_in=[FASHION], limit=QUERY_PRODUCTS)
    return sorted([*fashion, *others], key=lambda product: product.id.encode())


def _run_queries(console: Console, client: Client, queries: Sequence[DemoQuery], started_s: float) -> None:
    """Send every query and print its answer.

    A photo that cannot be read or a title without a word is reported and skipped: any catalogue may have some.
    """
    first = True
    for number, query in enumerate(queries, 1):
        try:
            hits, provenance = _run_query(client, query)
        except (NotFound, InvalidRequest) as error:
            console.print(Text(f"{number}. {query.heading}\nno answer: {printable(str(error))}\n", "yellow"))
            continue
        if first:
            console.print(f"First answer {time.monotonic() - started_s:.1f} s after the start.\n")
            first = False
        console.print(Text(f"{number}. {query.heading}", "bold"))
        console.print(hits)
        console.print(provenance, "\n")


def _run_query(client: Client, query: DemoQuery) -> tuple[Table | Text, Text]:
    """The answer as a table, and the line on its provenance."""
    if query.classify is not None:
        classification = client.classify(**query.classify)
        return render.classification(classification), render.classification_provenance(classification)
    response = client.search(**query.search)
    return render.table(response, without=("id", "shop")), render.provenance(response.provenance)


def _print_summary(console: Console, index: BuiltIndex, models: ExportedModels, node: ProcessSpec) -> None:
    rejected = f" ({index.rejected:,} more were rejected)" if index.rejected else ""
    console.print(
        f"Version {index.version} with {index.products:,} products{rejected} is served at [bold]{node.address}[/] "
        f"in the space{'s' if len(index.spaces) > 1 else ''} {' and '.join(index.spaces)}."
    )
    if "-untrained-" in models.encoder:
        reason = f"{models.fallback_reason}\n\n" if models.fallback_reason else ""
        text = (
            f"{reason}Searches by photo distinguish colours and shapes, little more. With a file of MobileNet v1 "
            "weights (α 1.0, 224, Keras .h5): make demo WEIGHTS=FILE. To retry the download: "
            "make demo WEIGHTS=imagenet."
        )
        console.print(Panel(Text(text), title="The image model is UNTRAINED", border_style="red"))


def _print_example_commands(console: Console, index: BuiltIndex, node: ProcessSpec, metrics_port: int) -> None:
    console.print("Try it yourself:", style="bold")
    for line in serve.example_commands(node.address, index.spaces, metrics_port):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print("\nCtrl-C stops everything.")
