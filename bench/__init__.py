"""Measurements: one script a question, each prints a table and, with --json, the raw figures."""
