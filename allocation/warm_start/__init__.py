"""First tables that know the text: a better start than chance, without a trained network."""

from allocation.warm_start.context import context_table
from allocation.warm_start.svd import svd_table

__all__ = ["context_table", "svd_table"]
