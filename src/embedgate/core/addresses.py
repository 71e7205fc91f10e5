"""Tells public IP addresses from those of a machine or a private network. Resolves no names.

IPv6 has many spellings of an IPv4 address: mapped, compatible, translated, 6to4, Teredo, NAT64, ISATAP. What counts is
where a packet ends, so an address is on the internet only if all that is embedded in it is.
"""

import ipaddress

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_ISATAP = (0x00005EFE, 0x02005EFE)
"""The first half of an interface identifier whose second half is an IPv4 address."""
# Beside what `ipaddress` knows: the relays of 6to4, the block of protocol assignments, in which one cloud has its
# metadata, and the address at which another answers every machine of its own; Teredo with its embedded server and
# client, and the newest range for documentation.
_NOT_PUBLIC_V4 = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "192.0.0.0/24", "168.63.129.16/32")))
_NOT_PUBLIC_V6 = (ipaddress.ip_network("2001::/23"), ipaddress.ip_network("3fff::/20"))


def is_public(address: IpAddress) -> bool:
    """Whether an address is on the public internet, in any notation."""
    if isinstance(address, ipaddress.IPv4Address):
        known = any(address in network for network in _NOT_PUBLIC_V4)
        return address.is_global and not address.is_multicast and not known
    if address in _MAPPED or address in _NAT64:
        return is_public(_v4(int(address)))
    if address not in _GLOBAL_UNICAST or any(address in network for network in _NOT_PUBLIC_V6):
        return False
    if address.scope_id is not None or not address.is_global:
        return False
    if address in _SIX_TO_FOUR and not is_public(_v4(int(address) >> 80)):
        return False
    is_isatap = int(address) >> 32 & 0xFFFFFFFF in _ISATAP
    return not is_isatap or is_public(_v4(int(address)))


def _v4(number: int) -> ipaddress.IPv4Address:
    """The IPv4 address in the last 32 bits."""
    return ipaddress.IPv4Address(number & 0xFFFFFFFF)
