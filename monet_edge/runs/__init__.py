"""Runs of many scans: what to do, doing it one by one, and the tables and records that stay. The way of one scan is `pipeline`'s."""

from .plan import Plan, find_scans, make_plan, plan_jobs
from .run import run_all

__all__ = ["Plan", "find_scans", "make_plan", "plan_jobs", "run_all"]
