"""Which addresses belong to the public internet (IANA's special-purpose registries, RFC 6890 and its successors)."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

REFUSED_V4 = tuple(
    map(
        ip_network,
        (
            "192.88.99.0/24",  # 6to4 relays, withdrawn (RFC 7526)
            "168.63.129.16/32",  # a public number that is the host of every Azure machine
        ),
    )
)
GLOBAL_UNICAST = IPv6Network("2000::/3")
REFUSED_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # IETF protocols: Teredo, benchmarks, ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: an IPv4 address in other words
            "3fff::/20",  # documentation (RFC 9637); Python 3.11 counts it as public
        ),
    )
)
NAT64 = IPv6Network("64:ff9b::/96")  # an IPv4 address behind a translator (RFC 6052)
ISATAP = (0x00005EFE, 0x02005EFE)  # third quarter of an address that tunnels to the IPv4 address in the last one
LOOKS_NUMERIC = re.compile(r"(^|\.)(0[xX][0-9a-fA-F]*|[0-9]+)\.?$")  # the last label, as browsers decide it


def is_public(address: str) -> bool:
    """Whether an address, as text, is one host of the public internet: neither private, loopback, link-local,
    multicast, reserved, nor such an IPv4 address inside an IPv6 one."""
    try:
        found = ip_address(address)
    except ValueError:  # not an address
        return False
    return _is_public_v4(found) if isinstance(found, IPv4Address) else _is_public_v6(found)


def is_misspelled_number(host: str) -> bool:
    """Whether a host is an IPv4 address in another spelling than four decimal numbers: 2130706433, 0x7f.1, 127.1."""
    if not LOOKS_NUMERIC.search(host):
        return False
    try:
        IPv4Address(host)
    except ValueError:
        return True
    return False


def _is_public_v4(address: IPv4Address) -> bool:
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in REFUSED_V4)


def _is_public_v6(address: IPv6Address) -> bool:
    if address.scope_id is not None:
        return False
    inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None or address in NAT64:
        return _is_public_v4(inner)
    if address not in GLOBAL_UNICAST or any(address in network for network in REFUSED_V6):
        return False
    is_tunnel = (int(address) >> 32 & 0xFFFFFFFF) in ISATAP
    return _is_public_v4(inner) if is_tunnel else True
