#!/bin/sh
# EX-5 on digits with three seeds.
OMP_NUM_THREADS=1 python ex_5.py --dataset digits -s 0,1,2 --output_dir outputs/ex_5_digits "$@"
