# Sourced by a batch script before its setup lines; then `lt_main COMMAND ...` runs the command.
# It passes Slurm's signals on, and requeues the job.
# Usage: source job.sh MAX_REQUEUES COUNT_FILE SECONDS_TO_SAVE
#
# Slurm signals this shell (--signal=B:USR2) before the time limit, and before preemption if the
# cluster is configured so. The command saves a checkpoint on SIGTERM and exits with 75. It cannot
# requeue its own job, because it may run in a container without Slurm's commands.

lt_max=$1
lt_file=$2
lt_patience=$3
lt_stopping=0
lt_worker=
lt_timer=
lt_status=75 # of the command; until it has begun, a signal finds nothing to save
# The task and not its array: for the last task of an array $SLURM_JOB_ID is the id of the array, so
# `scontrol requeue` with it would restart all tasks.
lt_job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"

lt_stop() {
  lt_stopping=1
  [ -z "$lt_worker" ] || lt_save
}

lt_save() { # tell the command to save; at the time limit Slurm would fail a job whose command hangs
  kill -TERM "$lt_worker" 2>/dev/null
  [ -z "$lt_timer" ] || return
  (
    sleep "$lt_patience" >/dev/null 2>&1 &
    trap 'kill $! 2>/dev/null' TERM # else it would outlive the job
    wait $! || exit                 # Slurm signals all processes, this one too
    echo "not saved after $lt_patience seconds, so it is killed" >&2
    kill -KILL "$lt_worker"
  ) &
  lt_timer=$!
}

lt_run() { # run the command to its end; a signal interrupts `wait`, so wait again
  "$@" &
  lt_worker=$!
  [ "$lt_stopping" = 0 ] || lt_save
  lt_status=127
  while :; do
    wait "$lt_worker"
    lt_status=$?
    kill -0 "$lt_worker" 2>/dev/null || break
  done
  [ -z "$lt_timer" ] || kill "$lt_timer" 2>/dev/null
  wait "$lt_worker" 2>/dev/null
  lt_last=$?
  [ "$lt_last" = 127 ] || lt_status=$lt_last # 127: it was waited for already; keep that status
}

lt_requeue() { # requeue the job if it may start again; fails if it may not
  local about count
  about=$(scontrol show job "$lt_job" 2>&1) || {
    echo "not requeued: $about; continue with \`resume\`" >&2
    return 1
  }
  case $about in
    # Preempted: a cluster may cancel such jobs. If it requeues them itself, this changes nothing.
    *PreemptTime=2*) ;;
    *JobState=RUNNING* | *Reason=TimeLimit*)
      count=$(($(cat "$lt_file" 2>/dev/null || echo 0) + 1))
      if [ "$count" -gt "$lt_max" ]; then
        echo "time limit reached, after $lt_max requeues (max_requeues); continue with \`resume\`" >&2
        return 1
      fi
      echo "$count" >"$lt_file"
      ;;
    *) return 1 ;; # cancelled by a person, or requeued already
  esac
  echo "requeued" >&2
  scontrol requeue "$lt_job"
}

lt_end() { # the end of the command, or of a setup line that the signal has ended
  # The command has saved (75), or a signal has ended it: while it was imported, SIGTERM does so.
  if [ "$lt_stopping" = 1 ] && { [ "$lt_status" = 75 ] || [ "$lt_status" -gt 128 ]; }; then
    lt_stopping=0 # ask once
    set +e
    lt_requeue && exec sleep 300 # wait for Slurm to end the job: an exit status would be its result
  fi
}

lt_main() {
  trap lt_stop USR2 TERM # a setup line may have set traps of its own
  for lt_try in 1 2 3 4 5; do
    [ "$lt_stopping" = 0 ] || break
    lt_run "$@"
    # Killed, but not by a stop signal: the allocation lasts, so continue from the checkpoint.
    [ "$lt_status" -gt 128 ] && [ "$lt_stopping" = 0 ] || break
    echo "ended by signal $((lt_status - 128)); started again" >&2
  done
  lt_end
  exit "$lt_status"
}

trap lt_stop USR2 TERM
trap lt_end EXIT
