"""Verbs: join, detect, triage, escalate, notify. Batches in, records out, and time is told."""
