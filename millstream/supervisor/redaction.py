"""Keeps secrets out of logs and messages: passwords inside URLs, and values whose name says what they are."""

from __future__ import annotations

import re

MASK = "***"

# Greedy up to the last "@": a password may hold an unescaped "@" or "/", and masking too much is harmless.
_USERINFO = re.compile(r"(?<=://)[^\s'\"<>]*@")
_PARAMETER = re.compile(r"([?&](?:password|token|secret)=)[^&\s'\"<>]*", re.IGNORECASE)
_SECRET_NAME = re.compile(r"passw|passphrase|secret|token|credential|api_?key|private_?key|signing_?key", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with what stands between `://` and `@`, and password parameters, masked."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(rf"\g<1>{MASK}", _USERINFO.sub(f"{MASK}@", text))


def is_secret(name: str) -> bool:
    """Whether a setting or field of this name is taken to hold a secret."""
    return bool(_SECRET_NAME.search(name))
