"""Photos are fetched from public addresses, and from those that the operator allows."""

from __future__ import annotations

import ipaddress

import pytest

from lookalike.errors import BadSettings
from pipeline.fetching.addresses import JudgingResolver, check_literal, is_allowed, parse_networks
from pipeline.fetching.failures import FetchCause, FetchError


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104  # An address that is judged, not listened on.
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2001:0:1:2::3",
    ],
)
def test_an_address_that_is_not_public_is_not_fetched_from(address: str) -> None:
    assert not is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_a_public_address_is_fetched_from(address: str) -> None:
    assert is_allowed(ipaddress.ip_address(address))


def test_an_allowed_network_is_fetched_from_in_every_form_of_its_addresses() -> None:
    allowed = parse_networks("10.1.0.0/16, fd00::/8")
    assert is_allowed(ipaddress.ip_address("10.1.9.9"), allowed)
    assert is_allowed(ipaddress.ip_address("::ffff:10.1.9.9"), allowed)
    assert is_allowed(ipaddress.ip_address("fd12::1"), allowed)
    assert not is_allowed(ipaddress.ip_address("10.2.0.1"), allowed)


def test_a_network_that_is_none_is_refused_as_a_setting() -> None:
    with pytest.raises(BadSettings, match="networks"):
        parse_networks("10.0.0.1/8")


@pytest.mark.parametrize("host", ["127.1", "2130706433", "1.2.3", "127.0.0.01", "::1::2"])
def test_a_short_or_odd_form_of_an_address_is_refused(host: str) -> None:
    with pytest.raises(FetchError) as error:
        check_literal(host, ())
    assert error.value.cause is FetchCause.BAD_ADDRESS


def test_a_name_is_left_to_the_resolver() -> None:
    check_literal("photos.example", ())


@pytest.mark.parametrize("name", ["localhost", "0x7f.1"])
async def test_a_name_of_this_machine_is_blocked_when_it_is_resolved(name: str) -> None:
    resolver = JudgingResolver(())
    with pytest.raises(FetchError) as error:
        await resolver.resolve(name, 80)
    assert error.value.cause is FetchCause.BLOCKED
    assert await JudgingResolver(parse_networks("127.0.0.0/8")).resolve(name, 80)
