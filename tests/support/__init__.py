"""Tools the tests share: real servers, a proxy that loses replies, supervised programs, leak checks."""
