"""Which addresses photos are fetched from: public ones, and the networks that an operator allows.

A name is resolved once, its addresses are judged, and the connection goes to one of those judged: what the name
resolves to a moment later (DNS rebinding) does not matter. Resolves names.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from lookalike.errors import BadSettings
from lookalike.printable import quote
from pipeline.fetching.failures import FetchCause, FetchError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address.


def parse_networks(text: str) -> tuple[Network, ...]:
    """The networks of a setting: "10.1.0.0/16, fd00::/8". Raises BadSettings."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise BadSettings(f"networks: {error}") from None


def is_allowed(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether photos are fetched from an address: a public one, or one in an allowed network.

    An IPv6 address that stands for an IPv4 one (mapped, 6to4, NAT64) is judged as that.
    """
    judged = _inner_address(address) or address
    if any(judged in network for network in allowed):
        return True
    return judged.is_global and not judged.is_multicast


def _inner_address(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


class JudgingResolver(AbstractResolver):
    """Resolves a name to those of its addresses that photos are fetched from."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        judged = [each for each in found if is_allowed(ipaddress.ip_address(each["host"]), self._allowed)]
        if found and not judged:
            raise FetchError(FetchCause.BLOCKED, f"{quote(host)} is at an address that photos are not fetched from")
        return judged

    async def close(self) -> None:
        await self._resolver.close()


def check_literal(host: str, allowed: Sequence[Network]) -> None:
    """Judge a host that is an address, which the resolver does not see; a name passes here. Raises FetchError.

    The short forms of addresses that some systems take ("127.1", "2130706433") are refused.
    """
    if ":" not in host and not host.replace(".", "").isdigit():
        return
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise FetchError(FetchCause.BAD_ADDRESS, f"{quote(host)} is neither a name nor an address") from None
    if not is_allowed(address, allowed):
        raise FetchError(FetchCause.BLOCKED, f"photos are not fetched from {address}")
