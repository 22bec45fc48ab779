"""Timed runs beside the peers; outside of the test-suite. `make bench` runs them all."""
