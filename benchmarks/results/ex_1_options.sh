#!/bin/sh
# EX-1 on 5,000 images of CIFAR-10: what do the options that fight overfitting change in six epochs? ./ex_1_options.sh CIFAR10_FOLDER
# Answer: outputs/sweeps/ex_1-options/comparison
cifar=$1
shift
OMP_NUM_THREADS=1 python sweep.py ex_1.py --vary mixup=0.2 cutmix=0.2 label_smoothing=0.1 ema=0.9 batch_schedule=4:512 \
    --seeds 5 --name ex_1-options "$@" -- --data "$cifar" --limit 5000 -e 6
