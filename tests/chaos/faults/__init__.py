"""The faults, by what they break. Each function starts what it needs and breaks it until its time is over."""

USUAL = ("quick", "quick", "quick", "quick", "slow", "busy", "flaky", "failing")
CALM = ("quick", "quick", "slow", "busy")
