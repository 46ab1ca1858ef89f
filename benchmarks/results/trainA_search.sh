#!/bin/sh
# trainA: the report's search over its network, in small: 12 configurations, 4 epochs of 800 photographs. ./trainA_search.sh PHOTOGRAPHS
photographs=$1
shift
python sweep.py sweeps/trainA.yaml --trials 12 "$@" -- -p "$photographs" --image_size 96 -e 4
