"""Instruments: statistics, baselines, evidence, the alarm core. NumPy and SciPy only; no clock, no chance, no world."""
