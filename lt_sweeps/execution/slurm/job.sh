# What a batch script sources: run a command under Slurm's signals, and see to it that it goes on.
# Usage: source job.sh MAX_REQUEUES COUNT_FILE COMMAND ...
#
# Slurm signals this shell (--signal=B:USR2): before the time limit, and before preemption where the
# cluster is set so. The command saves itself on SIGTERM and ends with 75. It cannot requeue its job
# itself: it may run in a container that has no Slurm.

lt_stopping=0
lt_worker=
lt_stop() {
  lt_stopping=1
  [ -z "$lt_worker" ] || kill -TERM "$lt_worker" 2>/dev/null
}

lt_run() { # the command to its end, however often a signal interrupts the waiting
  "$@" &
  lt_worker=$!
  [ "$lt_stopping" = 0 ] || kill -TERM "$lt_worker" 2>/dev/null
  lt_status=127
  while :; do
    wait "$lt_worker"
    lt_status=$?
    kill -0 "$lt_worker" 2>/dev/null || break
  done
  wait "$lt_worker" 2>/dev/null
  lt_last=$?
  [ "$lt_last" = 127 ] || lt_status=$lt_last # 127: it had been waited for, and that status holds
}

lt_requeue() { # whether the job may start again, which it is then told to do
  local max=$1 file=$2 about count
  about=$(scontrol show job "$SLURM_JOB_ID" 2>&1) || return 1
  case $about in
    # Preempted. In a cluster that cancels, it would be over; Slurm's own requeue comes to the same.
    *PreemptTime=2*) ;;
    *JobState=RUNNING* | *Reason=TimeLimit*)
      count=$(($(cat "$file" 2>/dev/null || echo 0) + 1))
      if [ "$count" -gt "$max" ]; then
        echo "time limit reached, after $max requeues (max_requeues); resume continues" >&2
        return 1
      fi
      echo "$count" >"$file"
      ;;
    *) return 1 ;; # cancelled by a person, or requeued already
  esac
  echo "requeued" >&2
  scontrol requeue "$SLURM_JOB_ID"
}

lt_main() {
  local max=$1 file=$2
  shift 2
  trap lt_stop USR2 TERM
  for lt_try in 1 2 3 4 5; do
    lt_run "$@"
    # Killed by somebody else: what it had is saved, and the allocation is still ours.
    [ "$lt_status" -gt 128 ] && [ "$lt_stopping" = 0 ] || break
    echo "ended by signal $((lt_status - 128)); started again" >&2
  done
  if [ "$lt_status" = 75 ] && [ "$lt_stopping" = 1 ] && lt_requeue "$max" "$file"; then
    exec sleep 300 # until Slurm ends the job: an exit would be its result
  fi
  exit "$lt_status"
}

lt_main "$@"
