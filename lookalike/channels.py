"""Create gRPC channels; no other module does. A channel connects when first used and reconnects after a failure."""

from __future__ import annotations

import grpc
import grpc.aio

from lookalike.limits import KEEPALIVE_TIME_MS, KEEPALIVE_TIMEOUT_MS, MAX_MESSAGE_BYTES

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A replica that comes back is used within a second, not after gRPC's default back-off of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A server that vanished without a word is noticed, and its calls fail, within 15 s.
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # If a name has several addresses, calls go to all of them in turn; gRPC's default is to use only one.
    ("grpc.lb_policy_name", "round_robin"),
)
# By default gRPC lets channels of one process share connections; with this option a channel has its own.
_OWN_CONNECTIONS = ("grpc.use_local_subchannel_pool", 1)


def blocking_channel(address: str) -> grpc.Channel:
    """A blocking channel to `host:port`."""
    return grpc.insecure_channel(address, options=_options(address))  # noqa: TID251  # the factory itself


def aio_channel(address: str) -> grpc.aio.Channel:
    """An asyncio channel to `host:port`, for the running event loop."""
    return grpc.aio.insecure_channel(address, options=_options(address))  # noqa: TID251  # the factory itself


def aio_channels(address: str, count: int) -> tuple[grpc.aio.Channel, ...]:
    """`count` asyncio channels to one `host:port`, each with its own connections."""
    options = (*_options(address), _OWN_CONNECTIONS)
    return tuple(grpc.aio.insecure_channel(address, options=options) for _ in range(count))  # noqa: TID251  # the factory itself


def _options(address: str) -> tuple[tuple[str, int | str], ...]:
    """`ipv4:host:port,host:port` names several addresses to gRPC, but is no HTTP authority: hyper refuses the comma."""
    if "," not in address:
        return _OPTIONS
    return (*_OPTIONS, ("grpc.default_authority", address.partition(":")[2].partition(",")[0]))
