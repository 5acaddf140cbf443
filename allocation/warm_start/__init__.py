"""First tables that know the text: a better start than chance, without a trained network."""

from allocation.warm_start.svd import svd_table

__all__ = ["svd_table"]
