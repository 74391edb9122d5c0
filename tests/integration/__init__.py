"""How accelerated layers get on with the rest of torch."""
