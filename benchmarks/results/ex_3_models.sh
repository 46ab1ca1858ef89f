#!/bin/sh
# ex_3: what do LeNet, AlexNet and ResNet-18 make of the same 2,000 images in four epochs? ./ex_3_models.sh CIFAR10_FOLDER
# Answer: outputs/sweeps/ex_3-models/comparison
cifar=$1
shift
python sweep.py ex_3.py --vary model=alexnet,resnet18 --seeds 3 --name ex_3-models "$@" -- --data "$cifar" --limit 2000 -e 4
