"""Mutation testing of the decisions in `core/`: does a test notice when one is made otherwise? scripts/mutate runs it."""
