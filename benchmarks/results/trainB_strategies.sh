#!/bin/sh
# trainB: what does each strategy make of weights that have seen other images, and what are the weights worth?
# ./trainB_strategies.sh CIFAR10_FOLDER PHOTOGRAPHS. The weights have seen 20,000 images of CIFAR-10 at 64x64 three times: ImageNet's
# are better, and 45 MB to download. Answer: outputs/sweeps/trainB-strategies/comparison
set -e
cifar=$1 photographs=$2
shift 2
export OMP_NUM_THREADS=1
python trainB.py --data "$cifar" --limit 20000 --model resnet18 --image_size 64 --weights none --strategy all -e 3 -b 128 -lr 1e-3 \
    --schedule cosine --test False --output_dir outputs/backbone_64
weights=$(ls outputs/backbone_64/trainB/*/*/best.pth | tail -n 1)
python sweep.py trainB.py --vary strategy=head,last,staged,rescale weights=none --seeds 3 --name trainB-strategies "$@" \
    -- -p "$photographs" --model resnet18 --image_size 64 --weights "$weights" --strategy all -e 6 -b 16
