"""Signed envelopes: who has a signing key may enqueue, who only has the server may not.

The signature is the last member of the envelope, so every script that moves a job carries it along. It covers the
queue, the job's id and every byte of the envelope before it, and is checked before anything is decoded.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from millstream.protocol.errors import MillstreamError

SHORTEST = 32
"""Characters of a secret, at least: half of what ``openssl rand -hex 32`` prints."""

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,32}:[!-~]+")
_BEGIN = b',"s":"'
_SIGNATURE = re.compile(rb',"s":"([A-Za-z0-9_.-]{1,32}):([0-9a-f]{64})"\}')
_LONGEST = len(_BEGIN) + 32 + 1 + 64 + 2


class BadSignature(MillstreamError):
    """An entry is not signed by any of our keys; it becomes a dead letter and is not run."""


@dataclass(frozen=True)
class Keyring:
    """Signing keys, secrets by id: the first one signs, all of them verify. ``accept_unsigned``: a roll-out is on."""

    keys: Mapping[bytes, bytes] = field(repr=False)
    accept_unsigned: bool = False

    @classmethod
    def parse(cls, text: str, *, accept_unsigned: bool = False) -> Keyring:
        """The keyring of a text that has no :func:`problem`."""
        pairs = (key.encode().partition(b":") for key in _split(text))
        return cls({key_id: secret for key_id, _, secret in pairs}, accept_unsigned)

    @property
    def ids(self) -> list[str]:
        """The names of the keys, which are no secrets; the first one signs."""
        return [key_id.decode() for key_id in self.keys]


def problem(text: str) -> str | None:
    """What is wrong with a text of signing keys, or None. It repeats nothing of it: a slip may show a secret."""
    keys = _split(text)
    if not keys:
        return "holds no key: write id:secret"
    for number, key in enumerate(keys, 1):
        which = f"key {number} of {len(keys)}"
        if not _KEY.fullmatch(key):
            return f"{which} must be id:secret; the id is 1 to 32 letters, digits and . _ -, the secret plain ASCII"
        if (length := len(key.partition(":")[2])) < SHORTEST:
            return (
                f"the secret of {which} has {length} characters, it needs {SHORTEST}: make one by openssl rand -hex 32"
            )
    if len({key.partition(":")[0] for key in keys}) < len(keys):
        return "two keys have the same id"
    return None


def _split(text: str) -> list[str]:
    """One key per line, or with commas between them."""
    return text.replace(",", " ").split()


def sign(envelope: bytes, queue: str, job_id: str, keyring: Keyring) -> bytes:
    """The same envelope, signed by the first key."""
    key_id, secret = next(iter(keyring.keys.items()))
    body = envelope[:-1]
    return b'%b,"s":"%b:%b"}' % (body, key_id, _mac(secret, queue, job_id, body))


def verify(envelope: bytes, queue: str, job_id: str, keyring: Keyring, ref: str) -> None:
    """Raise :class:`BadSignature` unless one of the keys has signed this very job; *ref* names its entry in errors."""
    at = envelope.rfind(_BEGIN, -_LONGEST)
    signature = _SIGNATURE.fullmatch(envelope, at) if at >= 0 else None
    if signature is None:
        if keyring.accept_unsigned:
            return
        raise BadSignature(
            f"entry {ref} is not signed: give its producer the signing keys, or set accept_unsigned for a roll-out"
        )
    key_id, given = signature.groups()
    secret = keyring.keys.get(key_id)
    if secret is None:
        raise BadSignature(
            f"entry {ref} is signed by key {key_id.decode()!r}, which signing_keys lacks here: "
            "add it, then retry the job; a key that was removed may not be in use any more"
        )
    if not hmac.compare_digest(_mac(secret, queue, job_id, envelope[:at]), given):
        raise BadSignature(
            f"the signature of entry {ref} by key {key_id.decode()!r} does not fit: its envelope, id or queue was "
            "changed after it was signed, or its producer has another secret of that id"
        )


def _mac(secret: bytes, queue: str, job_id: str, body: bytes) -> bytes:
    # Each part behind its length: no two jobs have the same text.
    name, own = queue.encode(), job_id.encode()
    text = b"millstream-1 %d:%b,%d:%b,%d:%b" % (len(name), name, len(own), own, len(body), body)
    return hmac.digest(secret, text, "sha256").hex().encode()
