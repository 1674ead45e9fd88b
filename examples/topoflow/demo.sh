#!/usr/bin/env bash
# The main job at full size, end to end. Needs ckptdoctor[torch] and lightning on the PATH; everything it writes goes to demo/.
set -euo pipefail
cd "$(dirname "$0")"
. ./shown.sh
out=$root/demo
maps=../../mappings
mkdir -p "$out"
base=$out/base.ckpt
fixed_target=topoflow.model:TopoFlow
sequential_target=topoflow.model:TopoFlowSequential

title() { printf '\n=== %s\n' "$1"; }

title "1. A baseline, as a Lightning trainer writes it (one training step; made once, then kept)"
if [ -f "$base" ]; then echo "already there: demo/base.ckpt"; else run 0 python baseline.py --config configs/full.yaml --out "$base"; fi

title "2. The accident: a head of one layer, block 0's MLP as a Sequential. What would stay random?"
run 0 ckptdoctor diff "$base" topoflow.model:TopoFlowFirst

title "3. The gate that would have stopped the job"
run 1 ckptdoctor gate "$base" topoflow.model:TopoFlowFirst --max-random 0.1% --quiet

title "4. The head of three layers is back, the MLP is still a Sequential"
run 0 ckptdoctor diff "$base" "$sequential_target"

title "5. The map"
run 0 cat "$maps/topoflow-to-sequential.yaml"

title "6. The remap. The optimizer states belong to other parameters, so they are left out"
run 0 ckptdoctor remap "$base" "$sequential_target" -m "$maps/topoflow-to-sequential.yaml" \
    -o "$out/sequential.ckpt" --optimizer drop --overwrite

title "7. The gate passes: two scalars are new, and only they"
run 0 ckptdoctor gate "$out/sequential.ckpt" "$sequential_target" --max-random 2

title "8. The proof: what was written is what the map says"
run 0 ckptdoctor verify "$out/sequential.ckpt" "$sequential_target"
run 0 head -c 1100 "$out/sequential.ckpt.receipt.json"

title "9. The job starts: a real load_state_dict(strict=False)"
run 0 python start_job.py "$out/sequential.ckpt" --variant sequential --config configs/full.yaml --max-missing 2

title "10. With the MLP named as before (this folder's ckptdoctor.yaml names $fixed_target), nothing has to be remapped"
run 0 ckptdoctor diff "$base"

title "11. And it trains: the losses at the start"
bash demo_training.sh

printf '\nDone. The files are in demo/.\n'
