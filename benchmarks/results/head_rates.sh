#!/bin/sh
# trainB: which learning rate suits a new head on frozen features? ./head_rates.sh CIFAR10_FOLDER PHOTOGRAPHS
# The backbone is a ResNet-18 that has seen 5,000 images of CIFAR-10 twice: ImageNet's weights are better, and 45 MB to download.
set -e
cifar=$1 photographs=$2
shift 2
OMP_NUM_THREADS=1 python ex_4.py --data "$cifar" --limit 5000 -e 2 -lr 0.01 --test False --output_dir outputs/backbone
OMP_NUM_THREADS=1 python sweep.py sweeps/head_lr.yaml --seeds 5 "$@" \
    -- -p "$photographs" --model resnet18 --image_size 64 --weights "$(ls outputs/backbone/ex_4/*/*/best.pth | tail -n 1)"
