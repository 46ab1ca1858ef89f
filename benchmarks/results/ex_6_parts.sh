#!/bin/sh
# EX-6: what is each trick worth, and each width of the network? ./ex_6_parts.sh CIFAR10_FOLDER
# An hour and a half on one core. Answer: outputs/sweeps/ex_6-parts/comparison, of the test images in docs/fast_lane.md
cifar=$1
shift
OMP_NUM_THREADS=1 python sweep.py ex_6.py --vary whiten dirac pool_first flip=random,none optimizer=sgd sizes=32 label_smoothing=0 \
    "widths=8,32,32;32,128,128" --seeds 3 --test --name ex_6-parts "$@" -- --data "$cifar"
