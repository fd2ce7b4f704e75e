"""What a mount keeps on the local disk between its runs; fs knows it by the protocols in fs/ports.py."""
