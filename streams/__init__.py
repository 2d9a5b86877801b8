"""Stages, which are pure, and the runtime, which alone knows the world."""
