"""Measurements: bare loops, Millstream's own figures, and how they are shown."""
