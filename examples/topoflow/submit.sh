#!/usr/bin/env bash
#SBATCH --job-name=topoflow
#SBATCH --nodes=32
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=%x-%j.log
#
# Fine-tune TopoFlow from the remapped baseline on 32 nodes with 8 GPUs each.
#
#   sbatch submit.sh START.ckpt [BASELINE.ckpt]        # in this folder
#
# In the environment: CONFIG (configs/full.yaml), RUNS (runs/topoflow), CACHE (RUNS/data), BATCH (256, one a GPU).
# Nothing is started from a checkpoint that would leave parameters random. Five minutes before its time is up the job asks to
# be queued again and goes on from its last checkpoint.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}" || exit 2

start=${1:?usage: sbatch submit.sh START.ckpt [BASELINE.ckpt]}
baseline=${2:-$start}
config=${CONFIG:-configs/full.yaml}
runs=${RUNS:-runs/topoflow}
log=$runs/job-${SLURM_JOB_ID:-$$}.log # appended to: a job that was queued again has the same id
mkdir -p "$runs"

# The new parameters are two scalars. A manifest (ckptdoctor inspect ... --manifest) would do as well, and need no torch here.
ckptdoctor gate "$start" topoflow.model:TopoFlow --target-config "$config" --max-random 2 || exit

requeue() {
    echo "time is nearly up: asking to be queued again, to go on from $runs/last.ckpt"
    scontrol requeue "$SLURM_JOB_ID"
    exit $?
}
trap requeue USR1

srun --label python train.py --config "$config" --variant fixed --out "$runs" --cache "${CACHE:-$runs/data}" \
    --init-from "$start" --max-random 2 --resume --batch "${BATCH:-256}" --precision bf16-mixed >> "$log" 2>&1 &
wait $!
status=$?

ckptdoctor triage "$log" --baseline "$baseline"
exit "$status"
