"""What crosses a process or network boundary: keys, envelope, registry, policies, scripts, transitions, client."""
