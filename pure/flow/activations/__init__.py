"""What flows by depth: signal, gates, residual steps, activation gradients, and what each block is worth."""
