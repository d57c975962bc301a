"""Which addresses a server may download from."""

from __future__ import annotations

import pytest

from chatbridge.serve.media_sources.public_address import is_misspelled_number, is_public

PUBLIC = (
    "8.8.8.8",
    "93.184.216.34",
    "172.15.255.255",
    "172.32.0.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
)
REFUSED = (
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # the metadata of Alibaba's machines
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # the host of Azure's machines
    "169.254.169.254",  # the metadata of AWS, Google, Azure
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:808:808::1",
    "2606:4700::5efe:10.0.0.1",  # ISATAP
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # the metadata of AWS
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700:4700::1111%1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "",
    "localhost",
    "127.1",
    "0177.0.0.1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_accepted(address):
    assert is_public(address)


@pytest.mark.parametrize("address", REFUSED)
def test_other_addresses_are_refused(address):
    """fails when a request can make the server ask a machine that only the server can reach"""
    assert not is_public(address)


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "1.2.3.4.", "017700000001", "1.2.3"]
)
def test_numbers_in_other_spellings_are_recognised(host):
    assert is_misspelled_number(host)


@pytest.mark.parametrize("host", ["8.8.8.8", "example.org", "1and1.com", "127.example", "::1", "0x7f.example.org", ""])
def test_names_and_plain_addresses_are_no_misspelled_numbers(host):
    assert not is_misspelled_number(host)
