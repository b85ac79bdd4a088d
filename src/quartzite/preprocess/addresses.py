"""Which hosts and network addresses pictures may be fetched from. Pure: looks nothing up and connects to nothing.

Sources: the IANA registries of special-purpose addresses for IPv4 and IPv6, as of 2026.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network

from quartzite.errors import InvalidConfig

_REFUSED_IPV4 = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this network, unspecified
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared by customers of a carrier
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # the host under every virtual machine of Azure, which nobody outside can reach
            "169.254.0.0/16",  # link-local, metadata of clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)

# Everything outside is refused: loopback, unspecified, link-local, unique local, multicast, and the forms that carry an
# IPv4 address in them: mapped (::ffff:0:0/96), compatible (::/96), translated (::ffff:0:0:0/96), NAT64 (64:ff9b::/96).
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    map(
        ip_network,
        (
            "2001::/23",  # protocol assignments, Teredo
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
        ),
    )
)

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LONGEST_NAME = 253
_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_public(address: str) -> bool:
    """Tell whether `address`, an IPv4 or IPv6 address in its usual spelling, is one that anybody can reach."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _REFUSED_IPV4)
    if parsed.scope_id is not None or parsed not in _GLOBAL_IPV6:
        return False
    return not any(parsed in network for network in _REFUSED_IPV6)


def normal_host(host: str) -> str | None:
    """Return `host`, the ASCII form of the host of a URL, in lower case and without a final dot, or None.

    None for what is neither a name nor an address in its usual spelling: among others, numbers that some systems read
    as addresses (`2130706433`, `0x7f.1`, `127.1`).
    """
    host = host.lower().removesuffix(".")
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if len(host) > _LONGEST_NAME or not _NAME.fullmatch(host) or _NUMBER.fullmatch(host.rpartition(".")[2]):
        return None
    return host


class AllowedHosts:
    """The hosts that may be reached wherever they are: `entries` are `HOST`, for ports 80 and 443, or `HOST:PORT`.

    An IPv6 address stands in brackets. Raises InvalidConfig that names an entry which is neither.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._allowed = {pair for entry in entries for pair in _ports_of(entry)}

    def __contains__(self, place: tuple[str, int]) -> bool:
        return place in self._allowed


def port_of(scheme: str, port: int | None) -> int:
    """Return the port that a URL of `scheme`, http or https, means."""
    return _DEFAULT_PORTS[scheme] if port is None else port


def _ports_of(entry: str) -> list[tuple[str, int]]:
    host, colon, port = entry.rpartition(":")
    if not colon or entry.endswith("]"):
        host, port = entry, ""
    name = normal_host(host.removeprefix("[").removesuffix("]"))
    if name is None or (colon and not entry.endswith("]") and not _is_port(port)):
        raise InvalidConfig(f"images.allowed_hosts: {entry!r} is neither HOST nor HOST:PORT")
    return [(name, int(port))] if port else [(name, default) for default in _DEFAULT_PORTS.values()]


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536
