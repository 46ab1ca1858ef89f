#!/bin/sh
# ex_3, question 5.2: at which learning rates does AlexNet learn at all? On digits, in four epochs. ./alexnet_lr.sh
# Answer: outputs/sweeps/alexnet-lr/comparison
python sweep.py sweeps/alexnet_lr.yaml --seeds 3 "$@" -- --config configs/alexnet.yaml --dataset digits -e 4
