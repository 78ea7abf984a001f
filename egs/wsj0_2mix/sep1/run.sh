#!/usr/bin/env bash
# WSJ0-2mix: two talkers separated, trained on mixtures drawn on the fly, scored on the published ones.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/sepmamba.yaml # the experiment
root=                   # the folder of WSJ0 (see README.md)
mixtures=               # the folder of WSJ0-2mix with cv and tt, as 2speakers/wav8k/min
converted=              # where unpacked copies go, if WSJ0's files are packed by shorten
nproc=auto              # training processes: auto takes every GPU of --ngpu, or the CPU cores
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
sets='' packed=(train)
root=${root:-WSJ0} mixtures=${mixtures:-WSJ0-2mix}

stage 1 prepare --in "$root" "$mixtures"/{cv,tt}/mix --out data/train/wav.scp data/{dev,test}/mixtures.jsonl -- \
  tse prepare wsj0_2mix --task separate --root "$root" --mixtures "$mixtures" --out data \
  ${converted:+--converted "$converted"}
mixture_stages "./run.sh egs/wsj0_2mix/sep1 --root ROOT --mixtures MIXTURES"
end_stages
