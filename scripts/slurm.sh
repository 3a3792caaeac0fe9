#!/usr/bin/env bash
# usage: sbatch [--nodes N] [--gpus-per-node G] [other options] scripts/slurm.sh TRAINING COMMAND
#
# Trains on all GPUs of a Slurm allocation: one torchrun on each node, one process for each GPU.
# TRAINING COMMAND is that of a recipe's stage, or of your own:
#
#   sbatch --nodes 2 --gpus-per-node 4 scripts/slurm.sh fairseq-train data/en-de … --save-dir runs/st
#   sbatch --nodes 2 scripts/slurm.sh fairseq-hydra-train --config-dir configs/train …
#   cress-svcd recipe scripts/recipes/en-de.yaml --dry-run --from-stage st --to-stage st
#
# An update takes GPUs × --update-freq batches: keep that product to keep the recipe.  Data, HuBERT
# and --save-dir must lie where all nodes see them.
#
# It goes on by itself: where a process is killed or a node is lost, the others are ended with it
# and the job fails; Slurm puts it into its queue again, as it does shortly before the time
# limit, and it takes up its work from the last checkpoint (--save-interval-updates says how old
# that can be).  After CRESS_RESTARTS failures (default 3) it stays ended.
#SBATCH --job-name=cress-svcd
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=slurm-%x-%j.log
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm.sh: no Slurm job: start it by sbatch" >&2; exit 2; }
case $1 in
  fairseq-train) program=fairseq_cli.train ;;
  fairseq-hydra-train) program=cress_svcd.training.hydra_train ;;
  *) echo "slurm.sh: $1: expected fairseq-train or fairseq-hydra-train, and its options" >&2
     exit 2 ;;
esac
shift
cd "${SLURM_SUBMIT_DIR:-.}"
[ ! -e .venv/bin/activate ] || . .venv/bin/activate

# Without a pipe into head: of many nodes scontrol would be ended by SIGPIPE, and the job with it.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 20000))
processes=${SLURM_GPUS_ON_NODE:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((${SLURM_CPUS_PER_TASK:-1} / processes > 0 ?
  ${SLURM_CPUS_PER_TASK:-1} / processes : 1))}

requeue() {
  echo "slurm.sh: $1: into the queue again (restart ${SLURM_RESTART_COUNT:-0})" >&2
  scontrol requeue "$SLURM_JOB_ID"
}

# shellcheck disable=SC2016  # SLURM_NODEID is each node's own
srun --kill-on-bad-exit=1 bash -c 'exec torchrun --nnodes "$SLURM_NNODES" --node-rank \
  "$SLURM_NODEID" --nproc-per-node "$0" --master-addr "$1" --master-port "$2" -m "${@:3}"' \
  "$processes" "$head" "$port" "$program" "$@" &
training=$!
out_of_time=
trap 'out_of_time=yes; kill -TERM $training' USR1
status=0
wait $training || status=$?
if [ -n "$out_of_time" ]; then
  wait $training || true
  requeue "the time limit is near"
elif [ $status -ne 0 ]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt "${CRESS_RESTARTS:-3}" ]; then
    requeue "the training ended with status $status"
  fi
  exit $status
fi
