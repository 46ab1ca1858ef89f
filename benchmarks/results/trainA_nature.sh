#!/bin/sh
# trainA on 800 photographs of ten classes, with three seeds. ./trainA_nature.sh PHOTOGRAPHS
photographs=$1
shift
OMP_NUM_THREADS=1 python trainA.py -p "$photographs" -e 20 -s 0,1,2 --output_dir outputs/trainA_nature "$@"
