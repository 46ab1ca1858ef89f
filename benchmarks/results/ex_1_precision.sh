#!/bin/sh
# EX-1: is a network that was trained in bf16 as accurate? On a CPU where `auto` is float32. ./ex_1_precision.sh CIFAR10_FOLDER
# Answer: outputs/sweeps/ex_1-vary-precision/comparison
cifar=$1
shift
OMP_NUM_THREADS=1 python sweep.py ex_1.py --vary precision=bf16 --seeds 5 --test "$@" -- --data "$cifar" --limit 10000 -e 12
