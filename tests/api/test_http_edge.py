"""The edge: TLS by files, clients behind proxies, pages of other origins, headers for browsers."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from app.api.server import tls_context
from app.core.config import Settings
from app.core.errors import ConfigurationError
from tests.api.serving import FakeServices, serving, settings

pytestmark = pytest.mark.asyncio
TEXT = {"text": "two words"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {key} -out {cert}"
    named = "-days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(["openssl", *made.split(), *named.split()], check=True, capture_output=True)
    return cert, key


async def test_with_a_certificate_the_server_speaks_https_alone(pair):
    cert, key = pair
    trusting = ssl.create_default_context(cafile=str(cert))
    async with serving(tls_cert_file=cert, tls_key_file=key) as running:
        async with httpx.AsyncClient(verify=trusting, timeout=10) as client:
            url = f"https://localhost:{running.port}"
            large = {"text": "word " * 30_000}
            for body in (TEXT, large, TEXT):
                answer = await client.post(f"{url}/infer", json=body)
                assert answer.json()["result"] == body["text"]
            async with client.stream("POST", f"{url}/infer", json={**TEXT, "stream": True}) as told:
                assert "event: done" in "".join([part async for part in told.aiter_text()])
        plain = await running.talk(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" not in plain


async def test_many_talk_tls_at_once_and_none_is_mixed_up(pair):
    cert, key = pair
    trusting = ssl.create_default_context(cafile=str(cert))
    async with serving(tls_cert_file=cert, tls_key_file=key) as running:
        async with httpx.AsyncClient(verify=trusting, timeout=30) as client:
            url = f"https://localhost:{running.port}/infer"
            sent = [f"text {number} " * 50 for number in range(60)]
            answers = await asyncio.gather(*(client.post(url, json={"text": t}) for t in sent))
    assert [answer.json()["result"] for answer in answers] == sent


async def test_grpc_speaks_tls_with_the_same_certificate(pair):
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    from app.api import open_inference_pb2 as messages
    from app.api.open_inference_grpc import SERVICE, GrpcServer

    cert, key = pair
    chosen = settings(host="127.0.0.1", grpc_port=0, tls_cert_file=cert, tls_key_file=key)
    server = GrpcServer(FakeServices(), chosen, "server", "0.1")
    await server.start()
    trusting = grpc.ssl_channel_credentials(cert.read_bytes())
    try:
        async with grpc.aio.secure_channel(f"localhost:{server.port}", trusting) as channel:
            ask = channel.unary_unary(
                f"/{SERVICE}/ServerLive",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=messages.ServerLiveResponse.FromString,
            )
            assert (await ask(messages.ServerLiveRequest(), timeout=10)).live
    finally:
        await server.stop()
    with pytest.raises(ConfigurationError, match="TLS_CERT_FILE"):
        GrpcServer(
            FakeServices(), settings(**{**chosen.model_dump(), "tls_key_file": cert}), "", ""
        )


async def test_wrong_files_are_told_at_the_start(pair, tmp_path):
    cert, key = pair
    (tmp_path / "empty.pem").write_text("")
    for wrong in ((tmp_path / "none.pem", key), (tmp_path / "empty.pem", key), (key, cert)):
        with pytest.raises(ConfigurationError, match="TLS_CERT_FILE"):
            tls_context(*wrong)


async def test_old_versions_of_tls_are_refused(pair):
    assert tls_context(*pair).minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("trusted", "forwarded", "host"),
    [
        ("", "203.0.113.9", "/127.0.0.1"),
        ("10.0.0.0/8", "203.0.113.9", "/127.0.0.1"),
        ("127.0.0.1", "203.0.113.9", "/203.0.113.9"),
        ("127.0.0.0/8, 10.0.0.0/8", "6.6.6.6, 203.0.113.9, 10.1.1.1", "/203.0.113.9"),
        ("127.0.0.1", "", "/127.0.0.1"),
    ],
    ids=["nobody", "another", "the proxy", "a chain of them", "the proxy says nothing"],
)
async def test_only_a_trusted_proxy_says_who_the_client_is(trusted, forwarded, host):
    async with serving(trusted_proxies=trusted) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
            headers = {"X-Forwarded-For": forwarded} if forwarded else {}
            await client.post("/infer", json=TEXT, headers=headers)
    assert running.services.inference.askers[0].caller == host


def preflight(origin: str) -> dict[str, str]:
    asked = {"Access-Control-Request-Method": "POST"}
    return {"Origin": origin, **asked, "Access-Control-Request-Headers": "authorization"}


async def test_pages_of_other_origins_are_told_nothing_unless_they_are_named():
    allowed, other = "https://shop.example", "https://evil.example"
    for origins, expected in (("", None), (allowed, allowed)):
        async with serving(cors_origins=origins) as running:
            async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
                for origin in (allowed, other):
                    headers = {"Origin": origin}
                    answers = (
                        await client.options("/infer", headers=preflight(origin)),
                        await client.post("/infer", json=TEXT, headers=headers),
                    )
                    for answer in answers:
                        told = answer.headers.get("access-control-allow-origin")
                        assert told == (expected if origin == allowed else None)
                        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/health", "/models", "/nowhere", "/docs", "/v1/models"])
async def test_every_answer_has_the_headers_that_browsers_heed(path):
    async with serving() as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
            headers = (await client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers.get_list("x-frame-options") == ["DENY"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers


@pytest.mark.parametrize(
    "wrong",
    [
        {"tls_cert_file": "a.pem"},
        {"trusted_proxies": "proxy.example"},
        {"cors_origins": "*"},
        {"cors_origins": "https://a.example/path"},
    ],
    ids=str,
)
async def test_settings_of_the_edge_are_checked(wrong):
    with pytest.raises(ValueError):
        settings(**wrong)


async def test_secrets_are_in_no_repr_of_the_settings():
    kept = SecretStr("postgresql://user:hunter2@host/db")
    assert "hunter2" not in repr(Settings(database_url=kept))
