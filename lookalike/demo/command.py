"""`lookalike demo`: the whole system on this machine, ending with real answers. Starts processes, writes its state."""

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
from lookalike.demo.preparation import SHARDS, Index, Models, Preparation
from lookalike.demo.queries import FASHION, Stop, stops
from lookalike.errors import InvalidRequest, NotFound, OperatorError
from lookalike.local import probes, process_specs, serve
from lookalike.local.process_specs import ProcessSpec
from lookalike.local.supervisor import Supervisor
from lookalike.runtime import directory_lock
from lookalike.v1.types_pb2 import Product

EXAMPLES = """\
examples:
  lookalike demo                         a sample catalogue; stays up until Ctrl-C
  lookalike demo --once                  the same, but stops after the answers
  lookalike demo --catalog my-products   your own; `lookalike catalog check` says what it makes of it
  lookalike demo --weights mobilenet.h5  image weights that you have; else ImageNet's are downloaded

The first start builds everything below --state; later starts build again only what has changed.
"""
METRICS_PORT = 9090  # Where `lookalike load` looks unless it is told otherwise.
READY_S = 300.0  # A busy laptop takes a minute to load TensorFlow.
TOURED = 200  # Products in fashion, and out of it, among which the questions are looked for.


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    asked = _parser(environ).parse_args(argv)
    console = Console(highlight=False)
    state = asked.state.resolve()
    with _alone(state), Supervisor(state / "logs", environ, directory=process_specs.ROOT) as processes:
        started_s = time.monotonic()
        preparation = Preparation(console, processes.run, state)
        catalogue = preparation.catalogue(asked.catalog.resolve() if asked.catalog else None)
        models = preparation.models(asked.weights)
        index, model_server, cache = _prepare(processes, preparation, catalogue, models)
        port, metrics_port = _port(console, asked.port), _metrics_port()
        gateway = _serve(processes, index, model_server, cache, port=port, metrics_port=metrics_port)
        _say_what_serves(console, index, models, gateway)
        with Client(gateway.address) as client:
            _tour(console, client, stops(_some_products(client), catalogue, index.spaces), started_s)
        if not asked.once:
            _say_how_to_ask(console, index, gateway, metrics_port)
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
    parser.add_argument("--catalog", type=Path, metavar="DIR", help="a catalogue; a sample is drawn unless given")
    parser.add_argument("--port", type=int, default=50051, help="of the gateway (default: %(default)s)")
    parser.add_argument("--state", type=Path, default=Path(".demo"), help="where all is kept (default: %(default)s)")
    parser.add_argument(
        "--weights",
        default=environ.get("LOOKALIKE_DEMO_WEIGHTS", ""),
        metavar="imagenet|untrained|FILE",
        help="of the image model [LOOKALIKE_DEMO_WEIGHTS, default: imagenet, or untrained where it cannot be had]",
    )
    return parser


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Holds the state directory. Raises OperatorError while another demo does."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = directory_lock.try_acquire(state)
    except OSError as error:
        raise OperatorError(f"{state}: {error.strerror}; choose another directory with --state") from error
    if lock is None:
        raise OperatorError(f"another demo runs in {state}; stop it or choose another --state")
    with lock:
        yield


def _port(console: Console, wished: int) -> int:
    if probes.is_port_free(wished):
        return wished
    (port,) = probes.free_ports(1, exclude=(wished,))
    console.print(f"[yellow]Port {wished} is taken: this demo uses {port} instead.[/]")
    return port


def _metrics_port() -> int:
    return METRICS_PORT if probes.is_port_free(METRICS_PORT) else probes.free_ports(1)[0]


def _prepare(
    processes: Supervisor, preparation: Preparation, catalogue: Path, models: Models
) -> tuple[Index, ProcessSpec, ProcessSpec | None]:
    """An up-to-date index, and what starts before the rest: the model server, which building needs, and Redis."""
    cache_port, model_port = probes.free_ports(2)
    cache = _cache(processes, cache_port)
    model_server = process_specs.model_server(models.directory, model_port)
    _launch(processes, *filter(None, [cache]), model_server)
    if (index := preparation.built_index(catalogue, models)) is None:
        processes.wait_ready(timeout_s=READY_S)
        index = preparation.build_index(catalogue, models, model_server.address)
    return index, model_server, cache


def _serve(
    processes: Supervisor,
    index: Index,
    model_server: ProcessSpec,
    cache: ProcessSpec | None,
    *,
    port: int,
    metrics_port: int,
) -> ProcessSpec:
    """The gateway, ready like all the rest: all start at once."""
    # Chosen only now: a build may take an hour, in which any connection could get a port that was chosen before it.
    text_port, *shard_ports = probes.free_ports(1 + SHARDS, exclude=(port, metrics_port))
    text_encoder = None
    if index.text_artifact is not None:
        text_encoder = process_specs.text_encoder(
            index.text_artifact, text_port, product_artifact=index.product_artifact
        )
    # The text encoder that starts with them is of this version, and follows no other.
    shards = [
        process_specs.shard(
            index.location, number, shard_port, version=index.version, live_dir=index.location.parent / "live"
        )
        for number, shard_port in enumerate(shard_ports)
    ]
    gateway = process_specs.gateway(
        shards, port, metrics_port=metrics_port, model_server=model_server, text_encoder=text_encoder, redis=cache
    )
    _launch(processes, *filter(None, [text_encoder]), *shards, gateway)
    processes.wait_ready(timeout_s=READY_S)
    return gateway


def _cache(processes: Supervisor, port: int) -> ProcessSpec | None:
    """Redis, where there is one; the gateway keeps answers in its own memory else."""
    executable = process_specs.redis_executable()
    return None if executable is None else process_specs.redis(executable, processes.logs, port)


def _launch(processes: Supervisor, *started: ProcessSpec) -> None:
    for role in started:
        processes.start(role.name, role.command, ready=role.ready)


def _some_products(client: Client) -> list[Product]:
    fashion = client.list(category_in=[FASHION], limit=TOURED)
    others = client.list(category_not_in=[FASHION], limit=TOURED)
    return sorted([*fashion, *others], key=lambda product: product.id.encode())


def _tour(console: Console, client: Client, tour: Sequence[Stop], started_s: float) -> None:
    """Ask everything and print the answers.

    A catalogue may have a photo that cannot be read and a title without a word: to ask about those is no failure.
    """
    waited = True
    for number, stop in enumerate(tour, 1):
        try:
            hits, line = _answered(client, stop)
        except (NotFound, InvalidRequest) as error:
            console.print(Text(f"{number}. {stop.title}\nno answer: {printable(str(error))}\n", "yellow"))
            continue
        if waited:
            console.print(f"First answer {time.monotonic() - started_s:.1f} s after the start.\n")
            waited = False
        console.print(Text(f"{number}. {stop.title}", "bold"))
        console.print(hits)
        console.print(line, "\n")


def _answered(client: Client, stop: Stop) -> tuple[Table | Text, Text]:
    """The answer, and the line on what it is."""
    if stop.subject is not None:
        classified = client.classify(**stop.subject)
        return render.classification(classified), render.classification_provenance(classified)
    answer = client.search(**stop.question)
    return render.table(answer, without=("id", "shop")), render.provenance(answer.provenance)


def _say_what_serves(console: Console, index: Index, models: Models, gateway: ProcessSpec) -> None:
    refused = f" ({index.rejected:,} more were rejected)" if index.rejected else ""
    console.print(
        f"Version {index.version} with {index.products:,} products{refused} is served at [bold]{gateway.address}[/] "
        f"in the space{'s' if len(index.spaces) > 1 else ''} {' and '.join(index.spaces)}."
    )
    if "-untrained-" in models.encoder:
        why = f"{models.fell_back}\n\n" if models.fell_back else ""
        text = (
            f"{why}Answers by photo tell apart colours and shapes, little more. With a file of MobileNet v1 weights "
            "(α 1.0, 224, Keras .h5): make demo WEIGHTS=FILE. To try the download again: make demo WEIGHTS=imagenet."
        )
        console.print(Panel(Text(text), title="The image model is UNTRAINED", border_style="red"))


def _say_how_to_ask(console: Console, index: Index, gateway: ProcessSpec, metrics_port: int) -> None:
    console.print("Ask it yourself:", style="bold")
    for line in serve.how_to_ask(gateway.address, index.spaces, metrics_port):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print("\nCtrl-C stops everything.")
