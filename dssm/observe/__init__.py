"""Logs and metrics of the jobs."""
