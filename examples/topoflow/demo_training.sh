#!/usr/bin/env bash
# What the map is worth, in a training that a laptop can do: a small baseline, then TopoFlow started from it twice, once as
# careless jobs do and once from the remapped checkpoint. Writes to demo/training/; what is there is not made again.
set -euo pipefail
cd "$(dirname "$0")"
. ./shown.sh
out=$root/demo/training
mkdir -p "$out"
target=(topoflow.model:TopoFlowSequential --target-config configs/small.yaml)
small=(--config configs/small.yaml --cache "$out/data" --days 40 --val-samples 64 --batch 8)

# Train once; the log is what a batch job would have left.
train() {
    local name=$1
    shift
    if [ ! -f "$out/$name.log" ]; then
        printf '\n$ python train.py %s\n' "${*//$root\//}"
        python train.py "${small[@]}" --out "$out/$name" "$@" > "$out/$name.log.part"
        mv "$out/$name.log.part" "$out/$name.log"
    fi
    cat "$out/$name.log"
}

train baseline --steps 500 --val-every 100 --learning-rate 2e-3
base=$(ls "$out"/baseline/best-val_loss=*.ckpt)

printf '\n--- (a) strict=False on the checkpoint as it is\n'
train careless --variant sequential --init-from "$base" --strict-false --steps 40 --val-every 10
run 1 ckptdoctor triage "$out/careless.log" --baseline "$base"

printf '\n--- (b) from the remapped checkpoint\n'
[ -f "$out/start.ckpt" ] || run 0 ckptdoctor remap "$base" "${target[@]}" -m ../../mappings/topoflow-to-sequential.yaml \
    -o "$out/start.ckpt" --optimizer drop
train remapped --variant sequential --init-from "$out/start.ckpt" --max-random 2 --steps 40 --val-every 10
run 0 ckptdoctor triage "$out/remapped.log" --baseline "$base"

printf '\n--- (c) as (b), with elevation left out of the training\n'
train level --variant sequential --init-from "$out/start.ckpt" --max-random 2 --no-elevation --steps 40 --val-every 10

printf '\n--- the three starts\n'
run 0 python curves.py "$out/baseline" "$out/careless" "$out/remapped" --level "$out/level" --picture "$out/../curves.png"
