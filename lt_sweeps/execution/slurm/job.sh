# A batch script sources this file before its setup lines; then `lt_main COMMAND ...` runs the
# command. This file passes Slurm's signals on to the command, and requeues the job.
# Usage: source job.sh MAX_REQUEUES COUNT_FILE SECONDS_TO_SAVE
#
# Slurm signals this shell (--signal=B:USR2) before the time limit, and also before preemption if
# the cluster is configured that way. On SIGTERM the command saves a checkpoint and exits with 75.
# The command cannot requeue its own job: it may run in a container without Slurm's commands.

lt_max=$1
lt_file=$2
lt_patience=$3
lt_stopping=0
lt_worker=
lt_timer=
lt_status=75 # the command's exit status; before the command starts, there is nothing to save
# The id of this task, not of its array. In the last task of an array, $SLURM_JOB_ID is the id of
# the whole array, and `scontrol requeue` with that id would restart all tasks.
lt_job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"

lt_stop() {
  lt_stopping=1
  [ -z "$lt_worker" ] || lt_save
}

lt_save() { # tell the command to save, and kill it if it hangs: a job at its time limit fails
  kill -TERM "$lt_worker" 2>/dev/null
  [ -z "$lt_timer" ] || return
  (
    # Set before `sleep` starts, which would otherwise outlive the job.
    trap 'kill $! 2>/dev/null; wait $! 2>/dev/null; exit' TERM
    sleep "$lt_patience" >/dev/null 2>&1 &
    wait $! || exit # Slurm signals all processes, including this one
    echo "not saved after $lt_patience seconds, so it is killed" >&2
    kill -KILL "$lt_worker"
  ) &
  lt_timer=$!
}

lt_run() { # run the command and wait until it ends; a signal interrupts `wait`, so wait again
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
  [ "$lt_last" = 127 ] || lt_status=$lt_last # 127: the loop has already collected the status
}

lt_requeue() { # requeue the job if that is allowed; otherwise return 1
  local about count
  about=$(scontrol show job "$lt_job" 2>&1) || {
    echo "not requeued: $about; continue with \`resume\`" >&2
    return 1
  }
  case $about in
    # Preempted: some clusters cancel such jobs. If Slurm requeues them itself, this has no effect.
    *PreemptTime=2*) ;;
    *JobState=RUNNING* | *Reason=TimeLimit*)
      count=$(($(cat "$lt_file" 2>/dev/null || echo 0) + 1))
      if [ "$count" -gt "$lt_max" ]; then
        echo "time limit reached, after $lt_max requeues (max_requeues); continue with \`resume\`" >&2
        return 1
      fi
      echo "$count" >"$lt_file"
      ;;
    *) return 1 ;; # cancelled by a person, or already requeued
  esac
  echo "requeued" >&2
  scontrol requeue "$lt_job"
}

lt_end() { # called when the command has ended, or a signal has ended a setup line
  # The command has saved (75), or a signal killed it: during its imports, SIGTERM kills it.
  if [ "$lt_stopping" = 1 ] && { [ "$lt_status" = 75 ] || [ "$lt_status" -gt 128 ]; }; then
    lt_stopping=0 # requeue only once: lt_main and the EXIT trap both call lt_end
    set +e
    lt_requeue && exec sleep 300 # until Slurm ends the job; an exit would become the job's result
  fi
}

lt_main() {
  trap lt_stop USR2 TERM # again, because a setup line may have set its own traps
  for lt_try in 1 2 3 4 5; do
    [ "$lt_stopping" = 0 ] || break
    lt_run "$@"
    # Killed, but not to stop the job: the allocation still exists, so resume from the checkpoint.
    [ "$lt_status" -gt 128 ] && [ "$lt_stopping" = 0 ] || break
    echo "ended by signal $((lt_status - 128)); started again" >&2
  done
  lt_end
  exit "$lt_status"
}

trap lt_stop USR2 TERM
trap lt_end EXIT
