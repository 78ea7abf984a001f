#!/usr/bin/env bash
# PolSESS: Polish speakers enhanced or separated in ready-made scenes, trained and scored by variant.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/sb.yaml # the experiment; its name begins with the goal: es, eb or sb
root=             # the folder of PolSESS, with train, val and test (see README.md)
nproc=auto        # training processes: auto takes every GPU of --ngpu, or the CPU cores
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
goal=$(basename "$conf" .yaml)
goal=${goal%%_*}
[[ $goal =~ ^(es|eb|sb)$ ]] || die 2 "--conf $conf: its name has to begin with the goal: es, eb or sb"
dev=dev_$goal tests=("test_$goal") drawn=() listed=(data/{dev,test}/layers.jsonl)
root=${root:-PolSESS}

stage 1 prepare --in "$root"/{train,val,test}/corpus_*_final.csv --out data/{train,dev,test}/layers.jsonl -- \
  tse prepare polsess --root "$root" --out data
mixture_stages "./run.sh egs/polsess/sep1 --root ROOT"
end_stages
