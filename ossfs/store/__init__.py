"""The object store: its interface, and the way to the real service."""
