"""Everything that can go wrong around a mount, done to it on purpose, with the bytes counted afterwards.

python -m tests.campaign --seconds 20 --seed 1 [--only NAME ...] [--report FILE]
"""
