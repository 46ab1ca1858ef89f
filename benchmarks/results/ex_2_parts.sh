#!/bin/sh
# EX-2: what does each part buy? Bigger input, more filters, augmentation, each left out by itself.
# Half an hour on one core. Answer: outputs/sweeps/ex_2-vary-augment-image_size-width/comparison
OMP_NUM_THREADS=1 python sweep.py ex_2.py --vary augment image_size=32 width=12 --seeds 5 "$@" \
    -- --dataset digits --limit 500 -e 10
