#!/bin/sh
# EX-1: is a network that was trained in bf16 as accurate? ./ex_1_precision.sh CIFAR10_FOLDER; 25 minutes on one core.
# Answer: outputs/sweeps/ex_1-vary-precision/comparison
cifar=$1
shift
OMP_NUM_THREADS=1 python sweep.py ex_1.py --vary precision=bf16 --seeds 5 --test "$@" \
    -- --data "$cifar" --limit 10000 -e 12 --precision fp32
