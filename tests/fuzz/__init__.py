"""Files that lie: how to build, break and judge them. `python -m tests.fuzz --help` for long runs."""
