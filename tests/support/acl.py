"""The shipped users and their rights, as test servers load them; MILLSTREAM_TEST_ACL=1 has every one of them do so."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2] / "ops" / "acl" / "users.acl"

EVERYWHERE = os.environ.get("MILLSTREAM_TEST_ACL") == "1"

ANY_PREFIX = "[a-z]*:"
"""The prefixes of all tests, `ms:` as well as those that the fixture `prefix` makes, as a pattern of keys."""

_PLACEHOLDER = re.compile(r"#SHA256-OF-THE-PASSWORD-OF-(\w+)")
_USER = re.compile(r"^(\w+://)(\w+):secret-of-\2@")


def password(role: str) -> str:
    """The password of a role on test servers."""
    return f"secret-of-{role}"


def credentials(role: str) -> str:
    """What a URL of this role has before its host or path."""
    return f"{role}:{password(role)}@"


def users(prefix: str) -> str:
    """The shipped file, for keys with this prefix and with passwords in their places."""
    text = SHIPPED.read_text().replace("~ms:", f"~{prefix}")
    return _PLACEHOLDER.sub(lambda found: "#" + hashlib.sha256(password(found[1]).encode()).hexdigest(), text)


def as_role(url: str, role: str) -> str:
    """The same server for another role; the same URL where the server knows no roles."""
    return _USER.sub(lambda found: found[1] + credentials(role), url)
