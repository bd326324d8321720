#!/usr/bin/env bash
# A real Slurm on one machine, to try sweeps on: two nodes with fake GPUs, preemption, accounting.
# Usage, as root on Debian or Ubuntu (a container will do; systemd is not needed):
#   launch/slurm/cluster.sh install    install its packages: Slurm, munge, MariaDB
#   launch/slurm/cluster.sh up         start it; processes that already run stay
#   launch/slurm/cluster.sh status | down | wipe
#   launch/slurm/cluster.sh node ltn1 down | up | kill     one node's daemon
# Environment variables: NODES=2 GPUS=4 CPUS=4 MEM=16000 (per node; they need not exist),
#   ACCOUNTING=1 (0: no database, as on clusters without sacct), PREEMPT=REQUEUE (or CANCEL),
#   GRACE=20 and KILL_WAIT=5 (seconds), USER_SIGNAL=1 (0: preemption sends SIGTERM only),
#   MAX_ARRAY=1001, REQUEUE_HOLD=5 (seconds that a requeued job is held; 120 on most clusters).
set -euo pipefail
: "${NODES:=2}" "${GPUS:=4}" "${CPUS:=4}" "${MEM:=16000}" "${ACCOUNTING:=1}" "${PREEMPT:=REQUEUE}"
: "${GRACE:=20}" "${KILL_WAIT:=5}" "${USER_SIGNAL:=1}" "${MAX_ARRAY:=1001}" "${REQUEUE_HOLD:=5}"
HOST=$(hostname -s)
RUN=/run/ltslurm SPOOL=/var/spool/ltslurm LOG=/var/log/ltslurm DATABASE=/var/lib/ltslurm

say() { echo "cluster: $*" >&2; }
alive() { [[ -s $1 ]] && kill -0 "$(cat "$1")" 2>/dev/null; }
wait_for() { # what, seconds, command ...
  local what=$1 tries=$(($2 * 5))
  shift 2
  for ((i = 0; i < tries; i++)); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.2
  done
  say "$what did not come up; see $LOG"
  return 1
}
stop() { # signal, pid file: ends the process of that file and no other
  [[ -s $2 ]] || return 0
  local pid
  pid=$(cat "$2")
  if kill -"$1" "$pid" 2>/dev/null; then
    for ((i = 0; i < 150; i++)); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  fi
  rm -f "$2"
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends munge slurm-wlm slurm-client slurmctld slurmd \
    slurm-wlm-basic-plugins slurmdbd slurm-wlm-mysql-plugin mariadb-server
}

configure() {
  mkdir -p $RUN $SPOOL/ctld $LOG /etc/slurm
  # Clones of /dev/null: the digits of the name become CUDA_VISIBLE_DEVICES. A gres by count alone,
  # without files, leaves the node invalid.
  for ((g = 0; g < GPUS; g++)); do [[ -e /dev/ltgpu$g ]] || mknod -m 666 /dev/ltgpu$g c 1 3; done
  local storage="AccountingStorageType=accounting_storage/none" signal=""
  [[ $ACCOUNTING == 1 ]] && storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStorageTRES=gres/gpu"
  [[ $USER_SIGNAL == 1 ]] && signal="SlurmctldParameters=preempt_send_user_signal"
  cat >/etc/slurm/slurm.conf <<CONF
ClusterName=ltslurm
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=$REQUEUE_HOLD
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/slurmd.%n.pid
StateSaveLocation=$SPOOL/ctld
SlurmdSpoolDir=$SPOOL/%n
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/slurmd.%n.log
MaxArraySize=$MAX_ARRAY
MaxJobCount=20000
MinJobAge=300
KillWait=$KILL_WAIT
JobRequeue=1
SlurmdTimeout=30
JobAcctGatherType=jobacct_gather/none
# These make small tests quick.
SchedulerParameters=sched_interval=2,sched_min_interval=200000,bf_interval=3,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$signal
$storage
CONF
  : >/etc/slurm/gres.conf
  for ((n = 1; n <= NODES; n++)); do
    echo "NodeName=ltn$n NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((17000 + n)) CPUs=$CPUS" \
      "Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM" \
      "Gres=gpu:$GPUS State=UNKNOWN" >>/etc/slurm/slurm.conf
    echo "NodeName=ltn$n Name=gpu File=/dev/ltgpu[0-$((GPUS - 1))]" >>/etc/slurm/gres.conf
  done
  local common="Nodes=ALL DefaultTime=60 MaxTime=INFINITE DefMemPerCPU=200 State=UP"
  cat >>/etc/slurm/slurm.conf <<CONF
PartitionName=gpu $common Default=YES PriorityTier=1 PreemptMode=$PREEMPT GraceTime=$GRACE
PartitionName=prio $common PriorityTier=10 PreemptMode=OFF
CONF
  (umask 077 && cat >/etc/slurm/slurmdbd.conf) <<CONF
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
PidFile=$RUN/slurmdbd.pid
LogFile=$LOG/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3307
StorageUser=slurm
StoragePass=ltslurm
CONF
}

start_munge() {
  munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return
  install -d -o munge -g munge -m 0755 /run/munge
  install -d -o munge -g munge -m 0700 /var/log/munge /var/lib/munge /etc/munge
  if [[ ! -s /etc/munge/munge.key ]]; then
    head -c 1024 /dev/urandom >/etc/munge/munge.key
    chown munge:munge /etc/munge/munge.key
    chmod 400 /etc/munge/munge.key
  fi
  (cd / && setpriv --reuid=munge --regid=munge --clear-groups /usr/sbin/munged)
  wait_for munge 10 sh -c 'munge -n | unmunge'
}

start_accounting() {
  if ! alive $RUN/mariadbd.pid; then
    if [[ ! -d $DATABASE/mysql ]]; then
      install -d -o mysql -g mysql $DATABASE
      mariadb-install-db --user=mysql --datadir=$DATABASE --skip-test-db \
        --auth-root-authentication-method=socket >/dev/null
    fi
    chown mysql $RUN
    setsid mariadbd --no-defaults --user=mysql --datadir=$DATABASE --socket=$RUN/mysqld.sock \
      --pid-file=$RUN/mariadbd.pid --bind-address=127.0.0.1 --port=3307 \
      --innodb-buffer-pool-size=128M >>$LOG/mariadbd.log 2>&1 </dev/null &
    wait_for mariadb 60 mariadb-admin --no-defaults --socket=$RUN/mysqld.sock ping
    mariadb --no-defaults --socket=$RUN/mysqld.sock <<'SQL'
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'ltslurm';
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY 'ltslurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';
SQL
  fi
  alive $RUN/slurmdbd.pid || slurmdbd
  wait_for slurmdbd 60 sacctmgr -n list cluster
  sacctmgr -n list cluster format=cluster | grep -qw ltslurm ||
    sacctmgr -i add cluster ltslurm >/dev/null
}

start_node() {
  mkdir -p "$SPOOL/$1"
  alive "$RUN/slurmd.$1.pid" || slurmd -N "$1"
  # The controller's saved state says idle even when a slurmd died at its start.
  wait_for "node $1" 20 alive "$RUN/slurmd.$1.pid"
  scontrol update nodename="$1" state=resume >/dev/null 2>&1 || true
}

ready() { [[ $(sinfo -h -N -p gpu -t idle,mix,alloc -o %N | sort -u | wc -l) -eq $NODES ]]; }

up() {
  configure
  start_munge
  [[ $ACCOUNTING == 0 ]] || start_accounting
  alive $RUN/slurmctld.pid || slurmctld
  wait_for slurmctld 60 sh -c 'scontrol ping | grep -q UP'
  for ((n = 1; n <= NODES; n++)); do start_node "ltn$n"; done
  wait_for 'all nodes' 60 ready
  timeout 60 srun -Q true || { say "it is up but runs no job"; return 1; }
  sinfo -o '%P %a %l %D %t %N %G %c %m'
}

down() {
  for file in $RUN/slurmd.*.pid $RUN/slurmctld.pid $RUN/slurmdbd.pid $RUN/mariadbd.pid; do
    stop TERM "$file"
  done
}

case ${1:-} in
  install) install_packages ;;
  up) up ;;
  down) down ;;
  status) scontrol ping && sinfo -N -o '%N %t %G %c %m' ;;
  wipe) down && rm -rf $RUN $SPOOL $LOG $DATABASE /dev/ltgpu* ;;
  node)
    case ${3:-} in
      up) start_node "$2" ;;
      down) stop TERM "$RUN/slurmd.$2.pid" ;;
      kill) stop KILL "$RUN/slurmd.$2.pid" ;;
      *) say "node: down, up or kill"; exit 2 ;;
    esac ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
