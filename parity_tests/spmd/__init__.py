"""`pure.spmd` and the measurements with `group=` on several processes, held against one process."""
