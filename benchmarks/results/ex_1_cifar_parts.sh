#!/bin/sh
# EX-1 on photographs: what do batch norm and dropout buy with 1,000 images of CIFAR-10? ./ex_1_cifar_parts.sh CIFAR10_FOLDER
# Answer: outputs/sweeps/ex_1-cifar_parts/comparison
cifar=$1
shift
OMP_NUM_THREADS=1 python sweep.py ex_1.py --vary batch_norm dropout=0.2,0.5 --seeds 5 --name ex_1-cifar_parts "$@" \
    -- --data "$cifar" --limit 1000 -e 10
