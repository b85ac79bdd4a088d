"""Which hosts and addresses may be fetched from: every refused form, odd spellings, and the list of allowed hosts."""

import pytest

from quartzite.errors import InvalidConfig
from quartzite.preprocess.addresses import AllowedHosts, is_public, normal_host

REFUSED = [
    # unspecified, private, carrier, loopback, host of a cloud, link-local
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.1"),
    *("168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
    # protocol assignments, documentation, relays, benchmarks, multicast, reserved, broadcast
    *("192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.7"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    # IPv6: unspecified, loopback, unique local, link-local with and without scope, old site-local, multicast, discard
    *("::", "::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1", "5f00::1"),
    # protocol assignments with Teredo, benchmarks and ORCHID, documentation, a scope on a global address
    *("2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:20::1", "2001:db8::1", "3fff::1"),
    "2606:4700::1%eth0",
    # IPv4 in IPv6, of loopback and of a public address: mapped, compatible, translated, NAT64 both ways, 6to4
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:808:808::1"),
    # what is no address
    *("", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "1.2.3.4.5"),
]


@pytest.mark.parametrize("address", REFUSED)
def test_what_not_everybody_can_reach_is_refused(address: str) -> None:
    """Each special-purpose range of the registries, and each form that hides an IPv4 address in IPv6."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "126.0.0.1", "128.0.0.1"),
        *("168.63.129.15", "169.253.0.1", "172.15.0.1", "172.32.0.1", "191.255.0.1", "192.0.1.1", "192.169.0.1"),
        *("198.17.0.1", "198.20.0.1", "203.0.112.1", "223.255.255.255"),
        *("2001:200::1", "2001:db9::1", "2003::1", "2606:4700::1111", "2a00:1450::1", "3ffe::1"),
    ],
)
def test_what_everybody_can_reach_is_taken(address: str) -> None:
    """The neighbours of the refused ranges are not refused with them."""
    assert is_public(address)


@pytest.mark.parametrize(
    ("host", "normal"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("xn--exmple-cua.com", "xn--exmple-cua.com"),
        ("a_b.c-d.e1", "a_b.c-d.e1"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("1.2.3.4.", "1.2.3.4"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("FD00:0:0::0:1", "fd00::1"),
    ],
)
def test_hosts_are_compared_in_one_spelling(host: str, normal: str) -> None:
    """Case, a final dot and the spellings of an IPv6 address make no difference."""
    assert normal_host(host) == normal


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0X7F.0.0.1", "127.1", "127.0.1", "0177.0.0.1", "1.2.3.4.5", "0x", "a.0x7f"),
        *("", ".", "..", "a..b", ".a", "-a", "a-", "a b", "a%2eb", "a/b", "a@b", "[::1]", "ä.de", "a" * 254, "a..."),
    ],
)
def test_what_is_no_host_in_its_usual_spelling_is_none(host: str) -> None:
    """Numbers that some systems read as addresses, and what no name can be."""
    assert normal_host(host) is None


def test_an_allowed_host_is_open_on_the_usual_ports() -> None:
    """`HOST` means ports 80 and 443, `HOST:PORT` that one."""
    allowed = AllowedHosts(["Images.internal.", "cache:8080", "10.0.0.5", "[fd00::1]", "[fd00::2]:81", "a.b:443"])
    for place in (
        *(("images.internal", 80), ("images.internal", 443), ("cache", 8080), ("10.0.0.5", 80)),
        *(("fd00::1", 443), ("fd00::2", 81), ("a.b", 443)),
    ):
        assert place in allowed
    for place in (
        *(("images.internal", 8080), ("cache", 80), ("10.0.0.5", 8080), ("fd00::1", 81), ("fd00::2", 80)),
        *(("a.b", 80), ("b", 443), ("internal", 80), ("10.0.0.50", 80)),
    ):
        assert place not in allowed


@pytest.mark.parametrize(
    "entry", ["", "http://a", "a:", "a:b", "a:0", "a:65536", "a:+1", "a b", "127.1", "*.internal", "10.0.0.0/8", "[::1"]
)
def test_an_entry_that_is_no_host_is_named(entry: str) -> None:
    """A list that would silently open nothing stops the start."""
    with pytest.raises(InvalidConfig, match=r"images\.allowed_hosts: .* is neither HOST nor HOST:PORT") as caught:
        AllowedHosts(["good", entry])
    assert repr(entry) in str(caught.value)
