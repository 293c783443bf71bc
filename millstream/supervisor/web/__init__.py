"""The web child: metrics and health checks over HTTP.

It reads the scoreboard, the files of what was counted, and the facts that maintenance leaves; it never asks Redis. Its
framework is imported in the child only, so that the supervisor stays small.
"""
