#!/bin/sh
# ex_3, question 5.3: which batch size suits AlexNet? On digits, in four epochs, at one learning rate. ./alexnet_batch.sh
# Answer: outputs/sweeps/alexnet-batch/comparison
python sweep.py sweeps/alexnet_batch.yaml --seeds 3 "$@" -- --config configs/alexnet.yaml --dataset digits -e 4
