"""Sees accidents on CCTV streams and publishes them as events."""
