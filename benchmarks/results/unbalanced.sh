#!/bin/sh
# EX-1 on 170 horses and 12 deer: what do class weights and balanced sampling change? ./unbalanced.sh CIFAR10_FOLDER
# Validation (200 of each) and test images (1,000 of each) are balanced, so that each class counts the same in the accuracy.
# Answer: outputs/sweeps/unbalanced/comparison
set -e
cifar=$1 set=outputs/unbalanced
shift
take() { # part of CIFAR-10, class, first file, last file, part of the set
    mkdir -p "$set/$5/$2"
    find "$cifar/$1/$2" -type f | LC_ALL=C sort | sed -n "$3,$4p" | xargs -I FILE cp FILE "$set/$5/$2/"
}
take train horse 1 170 train; take train horse 1001 1200 val; take test horse 1 1000 test
take train deer 1 12 train; take train deer 1001 1200 val; take test deer 1 1000 test
OMP_NUM_THREADS=1 python sweep.py ex_1.py --vary class_weights=auto balanced_sampling --seeds 5 --test --name unbalanced "$@" \
    -- --data "$set" -e 30 -b 32
