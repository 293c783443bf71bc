"""Reload: new code and configuration for a supervisor that keeps its process, its children and their jobs.

``child.py`` first: a throwaway process rehearses (``rehearsal.py``), then this process executes the new code
(``relaunch.py``), which finds what was left to it (``handover.py``) and goes on (``succession.py``).
"""
