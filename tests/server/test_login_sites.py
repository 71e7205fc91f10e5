"""Logins that a page of another site has a browser send: refused before they count as anything."""

import http.client
import json
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import pytest

from running import RunningGateway, gateway

CONFIG = """
    [providers.local]
    enabled = false
    [providers.fake]
    enabled = true
    [access]
    login_origins = ["https://console.example.org"]
"""
PASSWORD = "correct horse battery staple"
WRONG = {"name": "admin", "password": "a wrong and long phrase"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateway(tmp_path_factory.mktemp("logins"), CONFIG) as found:
        yield found


def post(running: RunningGateway, path: str, body: Mapping[str, str], headers: Mapping[str, str]) -> tuple[int, str]:
    url = urlsplit(running.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), dict(headers))
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def test_pages_of_other_sites_lock_nobody_out(running: RunningGateway) -> None:
    key = {"x-api-key": running.admin_key, "content-type": "application/json"}
    url = urlsplit(running.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    connection.request("PUT", "/api/users/admin/password", json.dumps({"password": PASSWORD}), key)
    assert connection.getresponse().status in (200, 204)
    connection.close()
    json_kind = {"content-type": "application/json"}
    foreign: list[Mapping[str, str]] = [
        {"content-type": "text/plain", "origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {**json_kind, "sec-fetch-site": "cross-site"},
        {**json_kind, "origin": "https://evil.example"},
        {**json_kind, "origin": "null"},
        {**json_kind, "origin": f"http://{url.hostname}:1"},
        {**json_kind, "origin": f"http://{url.netloc}.evil.example"},
        {"origin": "https://evil.example"},  # a Blob without a type
    ]
    for headers in foreign:
        for path, body in (("/api/login", WRONG), ("/api/refresh", {"refresh_token": "egr_x"})):
            status, text = post(running, path, body, headers)
            assert status in (400, 403), (headers, text)
    ours: list[Mapping[str, str]] = [
        json_kind,
        {},
        {**json_kind, "origin": f"http://{url.netloc}", "sec-fetch-site": "same-origin"},
        {**json_kind, "origin": f"https://{url.netloc}"},
        {"content-type": "application/json; charset=utf-8", "sec-fetch-site": "none"},
        {**json_kind, "origin": "https://console.example.org", "sec-fetch-site": "cross-site"},
    ]
    for headers in ours:
        status, text = post(running, "/api/login", {"name": "admin", "password": PASSWORD}, headers)
        assert status == 200, (headers, text)
