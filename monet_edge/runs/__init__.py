"""Runs of many scans: what to do, doing it here or on a cluster, the tables and records that stay. The way of one scan is `pipeline`'s."""

from .find import Found, Part, find_scans, parse_part
from .here import Here
from .plan import Plan, make_plan, plan_jobs
from .run import run_all

__all__ = ["Found", "Here", "Part", "Plan", "find_scans", "make_plan", "parse_part", "plan_jobs", "run_all"]
