#!/bin/sh
# EX-1 on 100 classes of 150 training images each, with three seeds. ./ex_1_small100.sh FOLDER. Its best epoch comes early: 12 of its 50.
images=$1
shift
OMP_NUM_THREADS=1 python ex_1.py --data "$images" -e 12 -s 0,1,2 --output_dir outputs/ex_1_small100 "$@"
