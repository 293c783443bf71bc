"""The page about users and TLS: its table has the users of the shipped file, its commands make one that works."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import redis
from redis.exceptions import NoPermissionError

from tests.docs.documents import DOCS, commands
from tests.support import acl
from tests.support.servers import Kind, StartServer

TEXT = (DOCS / "security.md").read_text()


def test_the_table_has_every_user() -> None:
    shipped = re.findall(r"^user (\w+) on ", acl.SHIPPED.read_text(), re.M)
    assert sorted(re.findall(r"^\| `(\w+)` \|", TEXT.partition("## TLS")[0], re.M)) == sorted(shipped)


@pytest.mark.parametrize("kind", list(Kind))
def test_the_commands_make_a_file_that_works(tmp_path: Path, start_server: StartServer, kind: Kind) -> None:
    shutil.copy(acl.SHIPPED, tmp_path)
    for command in commands(TEXT):
        subprocess.run(["bash", "-euc", command.text], cwd=tmp_path, check=True, timeout=30)
    server = start_server(
        kind, extra=("--aclfile", str(tmp_path / "users.acl")), acl=None, user=_user(tmp_path, "admin")
    )
    with redis.Redis.from_url(server.url) as admin:
        assert set(admin.acl_users()) == {"default", "admin", "producer", "worker", "operator", "web"}
    name, password = _user(tmp_path, "producer")
    with redis.Redis(unix_socket_path=str(server.socket), username=name, password=password) as producer:
        assert producer.sadd("shop:queues", "q") == 1
        with pytest.raises(NoPermissionError):
            producer.sadd("ms:queues", "q")


def _user(folder: Path, name: str) -> tuple[str, str]:
    return name, (folder / f"{name}.password").read_text()
