"""How fast ossfs is: `make bench`, `make bench-peers`, and what docs/performance.md is made of."""
