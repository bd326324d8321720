#!/usr/bin/env bash
# Everything that only a GPU can tell, in one go on a bare machine: the `gpu` tests, a table with the limits of the device, and figure
# 3's FC panel as far as the time allows. From the project's root:
#
#     bash tests/benchmarks/gpu.sh                              # on a GPU
#     DEVICE=cpu SIZE=tiny bash tests/benchmarks/gpu.sh         # a rehearsal, in a minute
#
# LIMIT     seconds in all (570)                  PARTS     of "tests table panel trainings", in this order
# OUT       a folder for at most seven files      WHEELS    packages to install first; no network is asked
# DATA      a folder with MNIST/raw, gzipped or not; it is left as it is
# OPEN_LTH  a clone of open_lth, to be timed too  WORDS     more overrides of the panel, such as "precision=tf32 workers=2"
# TESTS     which trainings, as for pytest's -k
#
# What such a machine lacks is fetched beforehand, with the tag of its Python:
#
#     python -m pip download --no-deps --only-binary=:all: --python-version 3.12 -d .gpu/wheels hydra-core 'omegaconf<2.4' submitit 'filelock>=3.30'
#     python -m pip wheel --no-deps -w .gpu/wheels 'antlr4-python3-runtime==4.9.*'
#
# `tests` asks whether steps are captured at all and are right, and `trainings` the same of whole trainings by every method, which takes
# longest. Both print each test as it ends, because one that is stopped for its time prints no summary. A part that fails is told, and the
# next one goes on; the exit status is 1 if any failed. Each net of the table has a process of its own: where a capture has failed, torch
# lets no other succeed in that process.
set -u
DEVICE=${DEVICE:-cuda} SIZE=${SIZE:-full} LIMIT=${LIMIT:-570} OUT=${OUT:-$PWD/.gpu/out} PY=${PY:-python3}
PARTS=${PARTS:-tests table panel trainings} WHEELS=${WHEELS:-.gpu/wheels} DATA=${DATA:-.gpu/data} OPEN_LTH=${OPEN_LTH:-}
WORDS=${WORDS:-}
export PYTHONUNBUFFERED=1
export CUBLAS_WORKSPACE_CONFIG=${CUBLAS_WORKSPACE_CONFIG:-:4096:8} # read at a process's first product, which may be a test's own
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)
exec > >(tee "$OUT/log") 2>&1
failed=""
scratch=$(mktemp -d)
export PYTHONPYCACHEPREFIX="$scratch/pycache" # the tree stays as it is
trap 'rm -rf "$scratch"' EXIT

left() { echo $((LIMIT - SECONDS)); }
at_most() { local n; n=$(left); [ "$n" -lt "$1" ] && echo "$n" || echo "$1"; }
part() { # name, seconds, command: run it within its time, and remember it if it fails
  local name=$1 limit status; limit=$(at_most "$2"); shift 2
  printf '\n== %s (at %s s, for %s s at most)\n' "$name" "$SECONDS" "$limit"
  if [ "$limit" -lt 3 ]; then echo "no time left for $name"; failed="$failed $name"; return; fi
  # SIGINT first, so that what has been measured is written.
  timeout --signal=INT --kill-after=15 "$limit" "$@"; status=$?
  [ $status -eq 0 ] || { echo "$name: exit status $status"; failed="$failed $name"; }
}
wanted() { case " $PARTS " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
wheels=("$WHEELS"/*.whl)
if [ -e "${wheels[0]}" ]; then
  printf '== %s wheels\n' "${#wheels[@]}"
  install=("$PY" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --root-user-action=ignore --upgrade --target "$scratch/site-packages")
  # Without pip, or where one wheel does not fit, they are unpacked: that is all that it would do.
  if ! "${install[@]}" "${wheels[@]}"; then
    tag=$("$PY" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    for wheel in "${wheels[@]}"; do
      case "$wheel" in
        *-none-any.whl | *-"$tag"-* | *-abi3-*) "$PY" -m zipfile -e "$wheel" "$scratch/site-packages" && continue ;;
      esac
      echo "not installed: $wheel"; failed="$failed $(basename "$wheel")"
    done
  fi
  export PYTHONPATH="$scratch/site-packages:$PYTHONPATH" # this name says that it is nobody's own code
fi
data=$scratch/data # links to the files of DATA, which stays as small as it is, and beside them what is unpacked
[ -d "$DATA" ] && cp -rs "$(realpath "$DATA")" "$data"
for file in "$data"/MNIST/raw/*.gz; do [ -e "$file" ] && [ ! -e "${file%.gz}" ] && gunzip -c "$file" >"${file%.gz}"; done

[ "$DEVICE" = cpu ] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
"$PY" - <<'P' || failed="$failed packages"
import importlib.util, sys
names = "torch hydra omegaconf submitit safetensors filelock numpy scipy pandas statsmodels matplotlib sklearn torchvision rich yaml psutil pytest"
missing = [name for name in names.split() if importlib.util.find_spec(name) is None]
import torch
print(sys.version.split()[0], "torch", torch.__version__, "cuda", torch.cuda.is_available(), "missing:", ", ".join(missing) or "nothing")
P

case "$DEVICE" in cuda*) # where tests would be skipped, and say nothing
  "$PY" -c "import torch; torch.zeros(1, device='$DEVICE')" 2>/dev/null || { echo "torch sees no $DEVICE here"; exit 1; } ;;
esac

tiny=(); [ "$SIZE" = tiny ] && tiny=(--size tiny)
full() { [ "$SIZE" = tiny ] && echo 300 || echo "$1"; } # tiny sizes are run on machines that are loaded
pytest=(env "LT_TEST_DEVICE=$DEVICE" "PYTHONPATH=$PWD/tests/benchmarks:$PYTHONPATH" "$PY" -m pytest -v --tb=short -p shown_failures -p no:cacheprovider)
pytest+=(-p no:benchmark -W default -m gpu) # that plugin, where it is installed, warns once for each of xdist's workers
[ "$DEVICE" != cpu ] && "$PY" -c 'import xdist' 2>/dev/null && pytest+=(-n "$(nproc | awk '{ print ($1 < 15) ? $1 : 15 }')" --dist worksteal)
trainings=tests/gpu/test_trainings_on_a_device.py
others=(tests/gpu tests/training/test_stack.py tests/execution/test_local_launcher.py "--deselect=$trainings")
if wanted tests; then
  part tests "$(full 90)" "${pytest[@]}" "${others[@]}"
fi
if wanted table; then
  rm -f "$OUT/results.json" # of an earlier run, perhaps on another device
  for net in fc:70 conv4:90 resnet20:110; do
    name=${net%:*} seconds=$(at_most "$(full "${net#*:}")") beside=()
    [ "$name" = fc ] && [ -n "$OPEN_LTH" ] && beside=(--open-lth "$OPEN_LTH")
    part "table of $name" $((seconds + 15)) "$PY" tests/benchmarks/gpu_table.py --device "$DEVICE" "${tiny[@]}" --nets "$name" --add --out "$OUT" --limit "$seconds" "${beside[@]}"
  done
fi
if wanted panel; then
  seconds=$(($(left) - 45)) # in which a sweep that is stopped saves
  wanted trainings && seconds=$(at_most "$(full 170)")
  part panel $((seconds + 40)) "$PY" tests/benchmarks/gpu_panel.py --device "$DEVICE" "${tiny[@]}" --data "$data" --out "$OUT" --limit "$seconds" $WORDS
fi
if wanted trainings; then
  part trainings "$(full 300)" "${pytest[@]}" "$trainings" ${TESTS:+-k "$TESTS"}
fi
printf '\n== end (at %s s): ' "$SECONDS"
[ -z "$failed" ] && echo "every part ended well; see $OUT" || echo "failed:$failed; see $OUT"
[ -z "$failed" ]
