"""Parts of tests/fuzz.py."""
