"""Create gRPC channels; no other module does. A channel connects when first used and reconnects after a failure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

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
# Of a caller's channel.
_CALLERS = (
    # A request is kept until it is answered, to be sent again: gRPC's default of 256 KiB has no room for a photo.
    ("grpc.per_rpc_retry_buffer_size", 16 << 20),
)

ChannelOptions = tuple[tuple[str, str | int], ...]


def blocking_channel(address: str) -> grpc.Channel:
    """A blocking channel to `host:port`, or to what else `client_target` takes."""
    target, options = client_target(address)
    return grpc.insecure_channel(target, options=(*_OPTIONS, *options))  # noqa: TID251  # the factory itself


def aio_channel(address: str) -> grpc.aio.Channel:
    """As `blocking_channel`, for the running event loop."""
    target, options = client_target(address)
    return grpc.aio.insecure_channel(target, options=(*_OPTIONS, *options))  # noqa: TID251  # the factory itself


def aio_channels(address: str, count: int) -> tuple[grpc.aio.Channel, ...]:
    """`count` asyncio channels to one `host:port`, each with its own connections."""
    options = (*_OPTIONS, _OWN_CONNECTIONS)
    return tuple(grpc.aio.insecure_channel(address, options=options) for _ in range(count))  # noqa: TID251  # the factory itself


def client_target(addresses: str | Sequence[str]) -> tuple[str, ChannelOptions]:
    """The gRPC target of one address, or of several, and the options that it needs.

    addresses: `host:port`, a target with a scheme (`dns:///gateway:50051`), or several `ip:port`, as a sequence or
    separated by commas. Raises ValueError for several of which one is no IP address: gRPC resolves only one name.
    """
    each = [address.strip() for address in (addresses.split(",") if isinstance(addresses, str) else addresses)]
    if len(each) == 1 or each[0].startswith(("ipv4:", "ipv6:", "unix:")):
        target = ",".join(each)
    else:
        versions = {_ip_version(address) for address in each}
        if len(versions) != 1:
            raise ValueError(f"{','.join(each)}: addresses of both IPv4 and IPv6; give one name that has them all")
        target = f"ipv{versions.pop()}:{','.join(each)}"
    # The authority would be the whole list, which strict HTTP/2 servers refuse.
    return target, (("grpc.default_authority", "localhost"),) if "," in target else ()


def collector_channel(endpoint: str) -> grpc.Channel:
    """A blocking channel to http://host:port, or https:// with TLS. Raises ValueError for what is neither."""
    scheme, _, address = endpoint.partition("://")
    if scheme == "http" and address:
        return grpc.insecure_channel(address, options=_OPTIONS)  # noqa: TID251  # the factory itself
    if scheme == "https" and address:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(), options=_OPTIONS)
    raise ValueError("not http://host:port or https://host:port")


def _ip_version(address: str) -> int:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        raise ValueError(f"{address}: of several addresses each must be ip:port; a name may have several") from None


def blocking_client_channel(addresses: str | Sequence[str], service_config: str) -> grpc.Channel:
    """A blocking channel of a caller to one gateway or several, which retries by the service config."""
    target, options = client_target(addresses)
    options = (*_OPTIONS, *_CALLERS, ("grpc.service_config", service_config), *options)
    return grpc.insecure_channel(target, options=options)  # noqa: TID251  # the factory itself


def aio_client_channel(addresses: str | Sequence[str], service_config: str) -> grpc.aio.Channel:
    """As `blocking_client_channel`, for the running event loop."""
    target, options = client_target(addresses)
    options = (*_OPTIONS, *_CALLERS, ("grpc.service_config", service_config), *options)
    return grpc.aio.insecure_channel(target, options=options)  # noqa: TID251  # the factory itself
