#!/bin/sh
# ex_3, question 5.4: images a second and memory by batch size, on a quiet machine; each command says where its picture is.
for model in lenet alexnet resnet18; do python ex_3.py --throughput --model $model "$@"; done
