"""The configuration: millstream.toml, overridden by MILLSTREAM_* variables, overridden by flags."""

from __future__ import annotations

from millstream.supervisor.config.description import Row, describe
from millstream.supervisor.config.loading import bounds, load
from millstream.supervisor.config.models import Group, Settings, SupervisorSettings, Web
from millstream.supervisor.config.values import Range

__all__ = ["Group", "Range", "Row", "Settings", "SupervisorSettings", "Web", "bounds", "describe", "load"]
