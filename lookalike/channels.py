"""Create gRPC channels; no other module does. A channel connects when first used and reconnects after a failure.

Channels are plain, or all of them use TLS: `use_tls` says which, once for the process; a caller's may have its own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import grpc
import grpc.aio

from lookalike.errors import BadSettings
from lookalike.limits import KEEPALIVE_TIME_MS, KEEPALIVE_TIMEOUT_MS, MAX_MESSAGE_BYTES
from lookalike.renewed_channels import RenewedAioChannel, RenewedChannel
from lookalike.tls import Pems, Tls

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


# How channels of this process are opened that are not told otherwise. One value and no argument of every class between
# here and the settings: a hop that was forgotten would be a plain one.
_process_tls: list[Tls] = []


def use_tls(tls: Tls | None) -> None:
    """Open all channels of this process by TLS from now on, or plain ones again. Raises BadSettings."""
    _process_tls[:] = [tls] if tls and tls.files.current() else []


def blocking_channel(address: str, server_name: str = "") -> grpc.Channel:
    """A blocking channel to `host:port`, or to what else `client_target` takes.

    server_name: that the address was resolved from, which the server's certificate must have; "": that of the address.
    """
    return _blocking(*client_target(address), process_tls(), server_name)


def aio_channel(address: str, server_name: str = "") -> grpc.aio.Channel:
    """As `blocking_channel`, for the running event loop."""
    return _aio(*client_target(address), process_tls(), server_name)


def aio_channels(address: str, count: int) -> tuple[grpc.aio.Channel, ...]:
    """`count` asyncio channels to one `host:port`, each with its own connections."""
    return tuple(_aio(address, (_OWN_CONNECTIONS,), process_tls()) for _ in range(count))


def process_tls() -> Tls | None:
    """How channels of this process are opened; None: plain."""
    return _process_tls[0] if _process_tls else None


def _blocking(target: str, options: ChannelOptions, tls: Tls | None, server_name: str = "") -> grpc.Channel:
    options = (*_OPTIONS, *options)
    if tls is None:
        return grpc.insecure_channel(target, options=options)  # noqa: TID251  # the factory itself
    options = _named(target, options, tls.server_name or server_name)

    def connect(pems: Pems) -> grpc.Channel:
        return grpc.secure_channel(target, pems.channel_credentials, options)  # noqa: TID251  # the factory itself

    return RenewedChannel(tls.files, connect)


def _aio(target: str, options: ChannelOptions, tls: Tls | None, server_name: str = "") -> grpc.aio.Channel:
    options = (*_OPTIONS, *options)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)  # noqa: TID251  # the factory itself
    options = _named(target, options, tls.server_name or server_name)

    def connect(pems: Pems) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(target, pems.channel_credentials, options)  # noqa: TID251  # the factory itself

    return RenewedAioChannel(tls.files, connect)


def _named(target: str, options: ChannelOptions, server_name: str) -> ChannelOptions:
    """The options with the name that the server's certificate must have. Raises BadSettings where none can be known."""
    if server_name:
        return (*options, ("grpc.ssl_target_name_override", server_name))
    if "," in target:
        raise BadSettings(f"{target}: with TLS, several addresses need the name of their certificates: tls_server_name")
    return options


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
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(), options=_OPTIONS)  # noqa: TID251  # the factory itself
    raise ValueError("not http://host:port or https://host:port")


def _ip_version(address: str) -> int:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        raise ValueError(f"{address}: of several addresses each must be ip:port; a name may have several") from None


def blocking_client_channel(
    addresses: str | Sequence[str], service_config: str, tls: Tls | None = None
) -> grpc.Channel:
    """A blocking channel of a caller to one gateway or several, which retries by the service config.

    tls: None: as the process's other channels. Raises BadSettings for files that cannot be used.
    """
    target, options = client_target(addresses)
    options = (*_CALLERS, ("grpc.service_config", service_config), *options)
    return _blocking(target, options, tls or process_tls())


def aio_client_channel(addresses: str | Sequence[str], service_config: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """As `blocking_client_channel`, for the running event loop."""
    target, options = client_target(addresses)
    options = (*_CALLERS, ("grpc.service_config", service_config), *options)
    return _aio(target, options, tls or process_tls())
