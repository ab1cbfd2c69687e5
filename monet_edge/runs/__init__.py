"""Runs of many scans: what to do, doing it here or on a cluster, the tables and records that stay. The way of one scan is `pipeline`'s.

What plans a run is imported without what does it, `here`, `cluster` and `run`: a scan is read while they are.
"""

from .find import Found, Part, find_scans, parse_part
from .plan import Plan, make_plan, plan_jobs

__all__ = ["Found", "Part", "Plan", "find_scans", "make_plan", "parse_part", "plan_jobs"]
