#!/bin/sh
# The single runs of docs/results.md: hours on two cores. ./single_runs.sh CIFAR10_FOLDER SMALL100 PHOTOGRAPHS MEDIUM_IMAGENET
set -e
cifar=$1 small=$2 photographs=$3 medium=$4
python trainA.py -p "$photographs" -e 20 -fo double -fs 5,5,3,3,3 -bn True -a GELU
python ex_3.py --config configs/lenet.yaml --data "$cifar"
python ex_3.py --config configs/alexnet.yaml --data "$cifar" -e 10
python ex_3.py --config configs/resnet18.yaml --data "$cifar" -e 3
for model in lenet alexnet resnet18; do python ex_3.py --throughput --model $model; done
python sweep.py sweeps/alexnet_lr.yaml -- --config configs/alexnet.yaml --dataset digits -e 4
python sweep.py sweeps/alexnet_batch.yaml -- --config configs/alexnet.yaml --dataset digits -e 4
python pack.py "$medium" medium.hdf5 --size 64
python ex_3.py --model resnet18 --image_size 32 -b 64 -lr 1e-3 -e 3 --data medium.hdf5
python ex_4.py --config configs/cifar100_resnet18.yaml --data "$small" -e 2 --override lr=0.05 batch_size=64
python sweep.py sweeps/trainA.yaml --trials 12 -- -p "$photographs" --image_size 96 -e 4
python ex_5.py --data "$cifar"
python trainB.py --data "$cifar" --model resnet18 --image_size 64 --weights none --strategy all -e 6 -b 128 -lr 1e-3 --schedule cosine \
    --output_dir outputs/backbone_of_cifar
weights=$(ls outputs/backbone_of_cifar/trainB/*/*/best.pth | tail -n 1)
for strategy in head last staged all rescale; do
    python trainB.py -p "$photographs" --model resnet18 --image_size 64 --weights "$weights" -e 10 -b 16 --strategy $strategy
done
