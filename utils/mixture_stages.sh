# shellcheck shell=bash disable=SC2154
# Stages 2 to 6 of every recipe that draws its mixtures: a run.sh prepares its corpus in stage 1, then calls
#
#   mixture_stages "<how to run this recipe>"
#
# It reads the recipe's options conf and nproc, and these names (sets lie in data/), which a recipe may change before
# (one name or several):
sets=conf/sets.yaml          # the fixed mixtures; none: stage 1 has listed them in data/<set>/mixtures.jsonl
dev=dev                      # the set that chooses the checkpoint
tests=(test)                 # the sets that are scored
some=()                      # of the sets in that file those that are drawn, if not all
rendered=()                  # the sets that are drawn and rendered, if there are more than these
drawn=(dev test)             # what the fixed mixtures are drawn from: speech, noise, rooms
listed=()                    # files that list ready-made mixtures, where there are some
train=(train)                # what training draws from: speech,
train_noise=() train_rirs=() # noise and rooms
packed=()                    # sets that are packed first: a large corpus is read faster so
score_options=()             # of tse score
finetunes=()                 # confs of stage 4 that start from the best of conf's experiment: a GAN, a student

mixture_stages() {
  local command=$1 set one all=("data/$dev" "${tests[@]/#/data/}") tables=("${listed[@]}")
  if [ "${#rendered[@]}" -gt 0 ]; then all=("${rendered[@]/#/data/}"); fi
  for set in "${packed[@]}"; do
    stage 1 "pack_$set" --in "data/$set/wav.scp" "data/$set/utt2num_samples" --out "data/$set/packed" -- \
      tse pack "data/$set" --nj "$nj"
  done
  for set in "${drawn[@]}"; do tables+=("data/$set/wav.scp" "data/$set/utt2num_samples"); done
  if [ "$sets" ]; then
    stage 2 simulate --in "$sets" "${tables[@]}" --out "${all[@]/%//mixtures.jsonl}" -- \
      tse simulate --conf "$sets" --data data ${some:+--sets "${some[@]}"}
  fi
  stage 2 render --in "${all[@]/%//mixtures.jsonl}" --out "${all[@]/%//mixtures}" --nj "$nj" -- \
    tse render "${all[@]}" --job JOB/NJ
  train_stage 3 train "$conf"
  for one in "${finetunes[@]}"; do train_stage 4 "$(stage_name "finetune_$(experiment "$one")")" "$one" "exp/$(experiment "$conf")/best.pt"; done
  for one in "$conf" "${finetunes[@]}"; do infer_stages "$one"; done
  for one in "$conf" "${finetunes[@]}"; do score_stages "$one" "$command"; done
}

experiment() { echo "$(basename "$1" .yaml)${tag:+_$tag}"; }

# How the stages of an experiment are called: those of conf by their set alone.
of_experiment() { if [ "$1" = "$conf" ]; then echo "$2"; else stage_name "$(experiment "$1")_$2"; fi; }

stage_name() { echo "${1//[^A-Za-z0-9_]/_}"; } # names of confs and tags may have other characters

train_stage() { # NUMBER NAME CONF [CHECKPOINT that it starts from]
  local exp one values=()
  if [ "$3" = "$conf" ]; then for one in $overrides; do values+=(--set "$one"); done; fi
  [[ $# -lt 4 || ! -f $3 ]] || grep -qF "$4" "$3" ||
    die 2 "$3: does not start from $4, the best of this run; write that into a copy of it, or change --conf or --tag"
  exp=exp/$(experiment "$3")
  stage "$1" "$2" --in "$3" "${@:4}" "${train[@]/#/data/}" "${train_noise[@]/#/data/}" "${train_rirs[@]/#/data/}" \
    "data/$dev/mixtures" --out "$exp/best.pt" --log "$exp/log" --gpu "$ngpu" -- \
    tse train --conf "$3" --data data --train "${train[@]}" ${train_noise:+--noise "${train_noise[@]}"} \
    ${train_rirs:+--rirs "${train_rirs[@]}"} --dev "$dev" --exp "$exp" --nproc "$nproc" "${values[@]}"
}

extracts() { grep -qs enroll_s "$1"; } # a separation has no enrolments

infer_stages() { # CONF
  local exp set
  exp=exp/$(experiment "$1")
  if extracts "$1"; then
    stage 5 "$(of_experiment "$1" calibrate)" --in "$exp/best.pt" "data/$dev/mixtures" --out "$exp/calibration.yaml" \
      --log "$exp/log" --gpu "$ngpu" -- tse calibrate --model "$exp/best.pt" --data "data/$dev"
  fi
  for set in "${tests[@]}"; do
    stage 5 "infer_$(of_experiment "$1" "$set")" --in "$exp/best.pt" "data/$set/mixtures" --out "$exp/$set/wav" \
      --log "$exp/$set/log" --nj "$nj" -- \
      tse infer --model "$exp/best.pt" --data "data/$set" --out "$exp/$set/wav" --job JOB/NJ --threads 1
  done
}

score_stages() { # CONF COMMAND
  local exp set parts=() summaries=() calibration=
  exp=exp/$(experiment "$1")
  if extracts "$1"; then calibration=$exp/calibration.yaml; fi
  for set in "${tests[@]}"; do
    stage 6 "score_$(of_experiment "$1" "$set")" --in "$exp/$set/wav" "data/$set/mixtures" ${calibration:+"$calibration"} \
      --out "$exp/$set/scores.part" --log "$exp/$set/log" --nj "$nj" -- \
      tse score --data "data/$set" --est "$exp/$set/wav" --out "$exp/$set/scores.part" \
      ${calibration:+--calibration "$calibration"} "${score_options[@]}" --job JOB/NJ
    parts+=("$exp/$set/scores.part") summaries+=("$exp/$set/summary.json")
  done
  stage 6 "$(of_experiment "$1" results)" --in "${parts[@]}" "$1" --out RESULTS.md "${summaries[@]}" "$exp/report" \
    --log "$exp/log" -- tse results --exp "$exp" --sets "${tests[@]}" --conf "$1" --command "$2 --conf $conf${finetunes[*]:+ --finetune \"${finetunes[*]}\"}${overrides:+ --overrides \"$overrides\"}${tag:+ --tag $tag}"
}
