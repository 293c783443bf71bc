"""The maintenance child: every periodic duty towards Redis.

Two loops, each with a thread and connections of its own. The urgent one (``urgent.py``) renews leases before all else,
settles dead workers and the outboxes of busy ones. The other one (``duties.py``) recovers, promotes, prunes and beats.
"""
