"""Hypothesis without deadlines: on a shared machine a slow example is not a bug."""

from hypothesis import settings

settings.register_profile("core", deadline=None, max_examples=40)
settings.load_profile("core")
