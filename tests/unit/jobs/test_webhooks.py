"""Where messages may go, and by what their reader knows them."""

import base64
import hashlib
import hmac
import ipaddress

import pytest

from app.core.errors import InvalidRequest
from app.jobs.notifier import MAX_ATTEMPTS, MOST_DELAY_S, delay_after
from app.jobs.webhooks import Message, check_url, is_public, signed_headers


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
    ],
)
def test_private_addresses_are_not_of_the_internet(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "https://",
        "https:///path",
        "file:///etc/passwd",
        "https://user:password@example.com/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://[::1",
        "https://exa mple.com/",
        "https://example.com/\r\nX: y",
        "https://exämple.com/",
        "http://127.0.0.1/",
        "http://[::1]:80/",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_what_nothing_can_be_sent_to_is_refused(url):
    with pytest.raises(InvalidRequest, match="webhook.url"):
        check_url(url, allows_private=False)


def test_private_addresses_may_be_allowed():
    assert check_url("http://127.0.0.1:9/x", allows_private=True).port == 9
    assert check_url("https://example.com/x?y=z", allows_private=False).hostname == "example.com"


def test_a_message_is_signed_over_its_id_its_time_and_its_body():
    message = Message("job_1", "https://example.com", "secret", b'{"a":1}')
    headers = signed_headers(message, 1700000000.9)
    expected = hmac.new(b"secret", b'job_1.1700000000.{"a":1}', hashlib.sha256).digest()
    assert headers["webhook-id"] == "job_1" and headers["webhook-timestamp"] == "1700000000"
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"


def test_pauses_grow_to_an_hour():
    delays = [delay_after(attempts) for attempts in range(1, MAX_ATTEMPTS)]
    assert delays[0] < 10 and max(delays) <= 1.2 * MOST_DELAY_S
    assert sum(delays) > 3 * 3600
