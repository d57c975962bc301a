#!/usr/bin/env bash
# Train on all GPUs of one or more nodes:  sbatch --nodes 2 docs/slurm_train.sh CONFIG.yaml [KEY=VALUE ...]
#SBATCH --job-name=chatbridge
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1          # one torchrun per node; it starts one process per GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300          # 5 minutes before the limit: the run finishes its step, saves and stops
#SBATCH --requeue                    # and starts again by itself, from its newest checkpoint
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch [--nodes N] docs/slurm_train.sh CONFIG.yaml [KEY=VALUE ...]" >&2
    exit 2
fi
config=$1
shift
cd "${CHATBRIDGE_DIR:-${SLURM_SUBMIT_DIR:-$PWD}}"        # the checkout, on a file system that every node sees
if [ -f "${CHATBRIDGE_VENV:-.venv}/bin/activate" ]; then
    . "${CHATBRIDGE_VENV:-.venv}/bin/activate"
fi

nodes=${SLURM_JOB_NUM_NODES:-1}
gpus=${SLURM_GPUS_ON_NODE:-$(nvidia-smi --list-gpus | wc -l)}
host=$(hostname)
if command -v scontrol > /dev/null && [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # read whole: a reader that stops early breaks scontrol's pipe
    host=${hosts%%$'\n'*}
fi
port=$((20000 + ${SLURM_JOB_ID:-0} % 20000))             # two jobs of one node do not meet

command=(
    torchrun
    --nnodes "$nodes" --nproc-per-node "$gpus"
    --rdzv-id "${SLURM_JOB_ID:-0}" --rdzv-backend c10d --rdzv-endpoint "$host:$port"
    --max-restarts 3
    train.py --cfg-path "$config"
)
if [ $# -gt 0 ]; then
    command+=(--options "$@")
fi
echo "$nodes node(s) x $gpus GPU(s), rendezvous at $host:$port: ${command[*]}"

was_told=                                                # Slurm tells this script alone; torchrun must hear it too
stop() {
    was_told=yes
    echo "time is nearly up: stopping"
    kill -TERM "$running" 2> /dev/null || true
}
trap stop TERM INT
if command -v srun > /dev/null; then
    srun --kill-on-bad-exit=1 "${command[@]}" &
else
    "${command[@]}" &
fi
running=$!
code=0
wait "$running" || code=$?
while kill -0 "$running" 2> /dev/null; do                # a signal ends `wait`, not the run
    code=0
    wait "$running" || code=$?
done
if [ -n "$was_told" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"                     # the same command resumes from the newest checkpoint
fi
exit "$code"
