#!/bin/sh
# EX-4's recipe on 2,500 images of 100 classes, two epochs: it runs, and leaves chance (1 %). ./ex_4_small100.sh SMALL100_FOLDER
small=$1
shift
OMP_NUM_THREADS=1 python ex_4.py --config configs/cifar100_resnet18.yaml --data "$small" --limit 2500 -e 2 -s 0,1,2 \
    --override lr=0.05 batch_size=64 --output_dir outputs/ex_4_small100 "$@"
