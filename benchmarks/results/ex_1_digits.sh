#!/bin/sh
# EX-1 on digits with five seeds: ten minutes on one core. The last lines are the rows to paste.
OMP_NUM_THREADS=1 python ex_1.py --dataset digits -s 0,1,2,3,4 "$@"
