"""The master, its children's handles, maintenance, configuration and the command line."""
