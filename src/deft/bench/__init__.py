"""Comparisons of methods: studies, jobs, store, tuning, statistics, reports."""
