"""The way to the server is encrypted: a supervisor and a producer by `rediss://`, and authorities nobody trusts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream import Millstream
from millstream.protocol.errors import Unavailable
from tests.support.acl import as_role
from tests.support.servers import Kind, Server, StartServer
from tests.support.supervised import Supervised

APP = """
from millstream import Millstream

app = Millstream()

@app.job(queue="q")
def add(a: int, b: int) -> int:
    return a + b
"""


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def authority(folder: Path) -> Path:
    """A folder with an authority of its own, and a certificate of it for 127.0.0.1 and one for clients."""
    folder.mkdir()
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        ours = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *ours)
    return folder


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    return authority(tmp_path / "trusted")


def with_clients_certificate(server: Server, trusted: Path) -> str:
    files = f"ssl_ca_certs={trusted}/ca.pem&ssl_certfile={trusted}/client.pem&ssl_keyfile={trusted}/client.key"
    return f"{server.tcp_url}?{files}"


@pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)  # that of the fixture plays no part here
@pytest.mark.leaves_jobs
def test_supervisor_and_producer_by_tls(
    start_server: StartServer, supervise: Callable[..., Supervised], trusted: Path
) -> None:
    own = start_server(Kind.REDIS, tcp=True, tls=trusted, acl="ms:", extra=("--tls-auth-clients", "yes"))
    url = with_clients_certificate(own, trusted)
    up = supervise(APP, "", redis_url=url, prefix="ms:")
    app = Millstream(redis_url=url, prefix="ms:")
    assert app.enqueue("add", 1, 2, queue="q").result(timeout=10) == 3
    assert up.command("queues", "list").returncode == 0
    app.client.close()
    up.stop()


def test_an_authority_that_is_not_trusted(start_server: StartServer, trusted: Path, tmp_path: Path) -> None:
    server = start_server(Kind.REDIS, tcp=True, tls=trusted, acl="ms:")
    url = f"{server.tcp_url}?ssl_ca_certs={authority(tmp_path / 'other')}/ca.pem"
    with Supervised(tmp_path / "up", APP, redis_url=url, prefix="ms:").start(wait=False) as up:
        assert up.wait() == 69
        assert re.fullmatch(r"millstream: Redis at rediss://worker:\*{3}@\S+ .*certificate verify failed.*\n", up.log())
        assert "secret-of" not in up.output()
    with pytest.raises(Unavailable, match="certificate verify failed") as caught:
        Millstream(redis_url=as_role(url, "producer"), prefix="ms:").enqueue("add", 1, 2, queue="q")
    assert "secret-of" not in str(caught.value)


def test_a_file_of_certificates_that_is_not_there(start_server: StartServer, trusted: Path, tmp_path: Path) -> None:
    server = start_server(Kind.REDIS, tcp=True, tls=trusted, acl="ms:")
    url = f"{server.tcp_url}?ssl_ca_certs=/nowhere/ca.pem"
    with Supervised(tmp_path / "up", APP, redis_url=url, prefix="ms:").start(wait=False) as up:
        assert up.wait() in (69, 78)
        assert len(up.log().splitlines()) == 1
        assert "secret-of" not in up.output()
