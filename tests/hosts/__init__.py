"""Accelerated layers against the layers of their hosts."""
