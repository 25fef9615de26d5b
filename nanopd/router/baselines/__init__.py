"""Simpler policies to compare against, and to fall back to."""
