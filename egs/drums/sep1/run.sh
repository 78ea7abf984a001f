#!/usr/bin/env bash
# Drum stems: MDX23C trained on one-shots as drummers played them, and on tracks with stems.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/small.yaml # the experiment
corpus=              # folder with oneshots.csv and gmd_midi/ (see README.md)
clips=               # folder of rendered tracks with stems, the second test set (default: stems_rendered of the corpus)
tracks=              # folder of tracks with stems to train on, too, as StemGMD: <split>/<track>/<stem>.wav
finetune=            # stage 4: confs that learn from the best of conf's experiment, as conf/student.yaml
museval=             # yes: also the SDR of 1 s frames by museval, seconds a mixture
nproc=auto           # training processes: auto takes every GPU of --ngpu, or the CPU cores
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
drawn=() listed=(data/{dev,test}/{oneshots,performances}.jsonl) some=(dev test)
how="./run.sh egs/drums/sep1 --corpus CORPUS${clips:+ --clips CLIPS}"
read -ra finetunes <<<"$finetune"
case $museval in
  yes) score_options=(--museval) how+=" --museval yes" ;;
  ?*) die 2 "--museval $museval: yes, or leave it out" ;;
esac

stage 1 prepare --in "${corpus:-corpus}/oneshots.csv" "${corpus:-corpus}/gmd_midi" --out \
  data/{train,dev,test}/{oneshots,performances}.jsonl -- tse prepare drums --root "$corpus" --out data
if [ -z "$clips" ] && [ -d "$corpus/stems_rendered" ]; then clips=$corpus/stems_rendered; fi
if [ "$clips" ]; then
  stage 1 prepare_clips --in "$clips" --out data/clips_test/tracks.jsonl -- \
    tse prepare stems --root "$clips" --only test --prefix clips_ --out data
  tests+=(test_clips) some+=(test_clips) listed+=(data/clips_test/tracks.jsonl)
fi
if [ "$tracks" ]; then
  stage 1 prepare_tracks --in "$tracks" --out data/tracks_train/tracks.jsonl -- \
    tse prepare stems --root "$tracks" --only train --prefix tracks_ --out data
  train+=(tracks_train) how+=" --tracks TRACKS"
fi
mixture_stages "$how"
end_stages
