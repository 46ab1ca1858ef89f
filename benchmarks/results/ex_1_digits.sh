#!/bin/sh
# EX-1 on digits with five seeds, as the script is: 50 epochs.
OMP_NUM_THREADS=1 python ex_1.py --dataset digits -s 0,1,2,3,4 --output_dir outputs/ex_1_digits "$@"
