#!/usr/bin/env bash
# A study on Slurm on this one machine, whose workers are jobs, one of which is cancelled: the same tables as in one
# process? Run it as root on a machine without Slurm daemons. It installs nothing, keeps all it writes in a temporary
# folder, listens on loopback only, and ends what it started by process id.
#
#     apt-get install --no-install-recommends slurm-wlm munge && pip install '.[dask]' && tools/slurm_one_node.sh
set -euo pipefail

for command in munged slurmctld slurmd srun scancel squeue sinfo; do
    PATH=$PATH:/usr/sbin command -v "$command" >/dev/null ||
        { echo "$command is missing: apt-get install --no-install-recommends slurm-wlm munge" >&2; exit 1; }
done
python -c 'import modeconn, distributed' || { echo "pip install '.[dask]' first" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "slurmd starts jobs for others, so it needs root" >&2; exit 1; }
PATH=$PATH:/usr/sbin

lab=$(mktemp -d)
chmod 711 "$lab" # munge's socket must be within everybody's reach
host=$(hostname -s)
export SLURM_CONF=$lab/slurm.conf
started=() # process ids, ended in reverse

end_all() {
    status=$?
    scancel --user root 2>/dev/null || true
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do
        kill "${started[i]}" 2>/dev/null || true
        wait "${started[i]}" 2>/dev/null || true
    done
    [ $status = 0 ] && rm -rf "$lab" || echo "failed; logs are in $lab" >&2
}
trap end_all EXIT

start() { # NAME COMMAND...: in the background, with a log
    local name=$1
    shift
    "$@" >"$lab/$name.log" 2>&1 &
    started+=($!)
}

wait_for() { # WHAT COMMAND...: until it succeeds
    local what=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 1200 ] || { echo "waited two minutes for $what" >&2; exit 1; }
        sleep 0.1
    done
}

# Slurm

read -r controller daemon < <(python - <<'PYTHON'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))
PYTHON
)
mkdir "$lab/state" "$lab/spool" "$lab/data"
head -c 128 /dev/urandom >"$lab/munge.key"
chmod 400 "$lab/munge.key"
cat >"$lab/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$daemon
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket=$lab/munge.socket
SlurmUser=root
SlurmctldPidFile=$lab/slurmctld.pid
SlurmdPidFile=$lab/slurmd.pid
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000
PartitionName=main Nodes=$host Default=YES State=UP OverSubscribe=FORCE:2
CONF
echo "CgroupAutomount=no" >"$lab/cgroup.conf"
start munged munged --foreground --force --socket "$lab/munge.socket" --key-file "$lab/munge.key" \
    --pid-file "$lab/munged.pid" --log-file "$lab/munged.own.log" --seed-file "$lab/munge.seed"
wait_for munged test -S "$lab/munge.socket"
start slurmctld slurmctld -D -c -f "$SLURM_CONF"
start slurmd slurmd -D -f "$SLURM_CONF"
is_idle() { [ "$(sinfo --noheader --format %t)" = idle ]; }
wait_for "Slurm's node" is_idle
echo "Slurm $(srun --version | cut -d' ' -f2): a job runs on $(srun hostname)"

# The study

study=(python -m modeconn instability digits-conv --iterations 400 --rewind-iters 0,70 --replicates 2 --alphas 3
    --seed 3 --device cpu --task.evaluate-every 50 --checkpoint-every 0 --data-dir "$lab/data")
"${study[@]}" --workers 0 --store "$lab/alone" --out "$lab/out-alone" >"$lab/alone.log" 2>&1
echo "alone, in one process: done"

file=$lab/scheduler.json
start scheduler python -m dask scheduler --host 127.0.0.1 --port 0 --no-dashboard --no-show --scheduler-file "$file"
wait_for "the scheduler" test -s "$file"
for worker in worker-0 worker-1; do
    start "$worker" srun --ntasks 1 --job-name "$worker" python -m dask worker --scheduler-file "$file" \
        --host 127.0.0.1 --nthreads 1 --no-dashboard --name "$worker" --local-directory "$lab"
done
start study "${study[@]}" --dask-scheduler-file "$file" --store "$lab/store" --out "$lab/out"
driver=${started[-1]}
in_two_trainings() {
    local unfinished=0 listing
    for listing in "$lab"/store/runs/*/partial.json; do
        [ -e "$listing" ] && [ ! -e "${listing%partial.json}done.json" ] && unfinished=$((unfinished + 1))
    done
    [ $unfinished = 2 ]
}
wait_for "two trainings" in_two_trainings
scancel --name worker-0
echo "cancelled worker-0 in the middle of a training; jobs now: $(squeue --noheader --format '%j %T' | paste -sd,)"
wait "$driver" || { cat "$lab/study.log" >&2; exit 1; }
for table in instability.csv paths.csv; do
    cmp "$lab/out-alone/$table" "$lab/out/$table"
done
echo "through srun, one job cancelled: the same instability.csv and paths.csv, byte for byte"
