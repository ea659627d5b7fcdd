#!/usr/bin/env bash
# optax's linear, polynomial and exponential schedules run in float32 inside an optimiser, in JAX's 64-bit mode too.
#
# Guess: with jax_enable_x64 a schedule's rate is float64, as that of the Python number 1 is.
# Seen: an optimiser counts its steps in int32, and JAX divides an int32 array in float32. So a warm-up differs from its
# formula in the 8th digit, and a float64 run from one that computes the same rates itself. cosine_decay_schedule is float64.
#
# Versions: optax 0.2.8, jax 0.10.2, CPU, Python 3.11. Seen on 2026-11-29:
#   step 1 of linear_schedule(0, 1, 3): 3.97e-08 off as float32; the Python number 1: 5.6e-17 off
# Exits 0 while this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import jax
import optax

jax.config.update("jax_enable_x64", True)
schedule = optax.linear_schedule(0.0, 1.0, 3)
optimizer = optax.scale_by_schedule(schedule)
count = optimizer.init({"w": jax.numpy.ones(1)}).count + 1
by_array, by_number = schedule(count), schedule(1)
print(f"step {count!r}: {by_array!r}, {float(by_array) - 1 / 3:.2e} off; step 1: {float(by_number) - 1 / 3:.2e} off")
cosine = optax.cosine_decay_schedule(1.0, 3)(count)
print(f"cosine_decay_schedule: {cosine!r}")
as_seen = (
    count.dtype == "int32"
    and by_array.dtype == "float32"
    and abs(float(by_array) - 1 / 3) > 1e-9
    and abs(float(by_number) - 1 / 3) < 1e-15
    and cosine.dtype == "float64"
)
sys.exit(0 if as_seen else 1)
PYTHON
