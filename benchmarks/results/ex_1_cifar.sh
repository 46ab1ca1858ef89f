#!/bin/sh
# EX-1 on CIFAR-10 with three seeds. ./ex_1_cifar.sh CIFAR10_FOLDER. Its best epoch comes early: 10 of its 50.
cifar=$1
shift
OMP_NUM_THREADS=1 python ex_1.py --data "$cifar" -e 10 -s 0,1,2 --output_dir outputs/ex_1_cifar "$@"
