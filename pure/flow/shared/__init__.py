"""What every measurement of gradient flow uses: input checks, results, estimates with intervals, tables."""
