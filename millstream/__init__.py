"""Millstream: CPU-heavy background jobs in forked worker processes, driven by Redis Streams."""

from __future__ import annotations

from millstream.protocol.app import Millstream
from millstream.protocol.errors import (
    CancelRequested,
    ConfigError,
    Discard,
    DuplicateJob,
    Fail,
    Interruption,
    InvalidJob,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobInterrupted,
    JobNotFound,
    JobTimeout,
    LeaseLost,
    MillstreamError,
    NotJSON,
    PayloadTooLarge,
    ResultNotKept,
    RetryLater,
    Snooze,
    Unavailable,
    UnknownJob,
    Unsupported,
    WrongArguments,
    WrongResult,
)
from millstream.protocol.handle import Handle
from millstream.protocol.info import Attempt, JobError, JobInfo, State
from millstream.protocol.policy import Retry
from millstream.protocol.registry import Draft, Job
from millstream.protocol.reports import LogLine
from millstream.worker.context import CurrentJob, current_job

__all__ = [
    "Attempt",
    "CancelRequested",
    "ConfigError",
    "CurrentJob",
    "Discard",
    "Draft",
    "DuplicateJob",
    "Fail",
    "Handle",
    "Interruption",
    "InvalidJob",
    "Job",
    "JobCancelled",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobInfo",
    "JobInterrupted",
    "JobNotFound",
    "JobTimeout",
    "LeaseLost",
    "LogLine",
    "Millstream",
    "MillstreamError",
    "NotJSON",
    "PayloadTooLarge",
    "ResultNotKept",
    "Retry",
    "RetryLater",
    "Snooze",
    "State",
    "Unavailable",
    "UnknownJob",
    "Unsupported",
    "WrongArguments",
    "WrongResult",
    "current_job",
]

__version__ = "0.1.0"
