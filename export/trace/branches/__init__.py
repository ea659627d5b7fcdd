"""The branches that Python takes while a function is recorded, and what becomes of the others."""
