#!/bin/sh
# EX-1: what do batch norm and dropout buy? Ten minutes on one core.
# Answer: outputs/sweeps/ex_1-vary-batch_norm-dropout/comparison
OMP_NUM_THREADS=1 python sweep.py ex_1.py --vary batch_norm dropout=0.2,0.5 --seeds 5 "$@" \
    -- --dataset digits --limit 500 -e 10
