#!/bin/sh
# EX-2 on photographs: the same question, on 1,000 training images of CIFAR-10. ./ex_2_cifar.sh CIFAR10_FOLDER
# Answer: outputs/sweeps/ex_2-cifar/comparison
cifar=$1
shift
OMP_NUM_THREADS=1 python sweep.py ex_2.py --vary augment image_size=32 width=12 --seeds 5 --name ex_2-cifar "$@" \
    -- --data "$cifar" --limit 1000 -e 5
