#!/usr/bin/env bash
# WSJ0-2mix: either talker extracted, trained on mixtures drawn on the fly, scored on the published ones.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/v8.yaml # the experiment
root=             # the folder of WSJ0 (see README.md)
mixtures=         # the folder of WSJ0-2mix with cv and tt, as 2speakers/wav8k/min
enrolls=          # the folder of SpEx+'s lists, with cv/aux.scp and tt/aux.scp; without it enrolments are drawn
converted=        # where unpacked copies go, if WSJ0's files are packed by shorten
nproc=auto        # training processes: auto takes every GPU of --ngpu, or the CPU cores
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
sets='' packed=(train) lists=()
root=${root:-WSJ0} mixtures=${mixtures:-WSJ0-2mix}
if [ "$enrolls" ]; then lists=("$enrolls"/{cv,tt}/aux.scp); fi

stage 1 prepare --in "$root" "$mixtures"/{cv,tt}/mix "${lists[@]}" \
  --out data/train/wav.scp data/{dev,test}/mixtures.jsonl -- \
  tse prepare wsj0_2mix --task extract --root "$root" --mixtures "$mixtures" --out data \
  ${enrolls:+--enrolls "$enrolls"} ${converted:+--converted "$converted"}
mixture_stages "./run.sh egs/wsj0_2mix/tse1 --root ROOT --mixtures MIXTURES${enrolls:+ --enrolls ENROLLS}"
end_stages
