#!/usr/bin/env bash
# HiFi-TSE at 48 kHz on a collection: speech of DNS4, EARS and VCTK, noise of WHAM!, DEMAND and DNS, rooms of SLR26 and SLR28.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
stage=1 # stage 0 downloads most of a terabyte: only on request
## options
conf=conf/v2.yaml # the experiment
corpora=corpora   # where the corpora lie, each as its archives unpack (see README.md)
nproc=auto        # training processes: auto takes every GPU of --ngpu, or the CPU cores
finetune=         # stage 4: confs that start from its best, as "conf/v2_gan.yaml conf/v2_student.yaml"
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
speech=(dns_speech ears vctk) noise=(wham_noise demand dns_noise) rooms=(slr26 slr28)
declare -A options=(
  [wham_noise]='--high_res' [demand]='--sample_rate 48000' [slr26]='--sample_rate 48000' [slr28]='--parts real'
  [dns_speech]='--split 0.9 0.05 0.05' [vctk]='--split 0.9 0.05 0.05' # EARS and WHAM! have their own
)
declare -A parts=([wham_noise]='high_res' [demand]='48k' [slr26]='48k')
train=("${speech[@]/%/_train}") train_noise=("${noise[@]/%/_train}") train_rirs=("${rooms[@]/%/_train}")
packed=("${train[@]}" "${train_noise[@]}")
drawn=(); for name in "${speech[@]}" "${noise[@]}" "${rooms[@]}"; do drawn+=("${name}_dev" "${name}_test"); done
tests=(test test_lengths test_partial)
read -ra finetunes <<<"$finetune"

for name in "${speech[@]}" "${noise[@]}" "${rooms[@]}"; do
  # shellcheck disable=SC2086
  stage 0 "download_$name" --out "$corpora/$name" -- tse download "$name" --root "$corpora/$name" ${parts[$name]:+--parts ${parts[$name]}}
done
for name in "${speech[@]}" "${noise[@]}" "${rooms[@]}"; do
  # shellcheck disable=SC2086
  stage 1 "prepare_$name" --in "$corpora/$name" --out "data/${name}_train" "data/${name}_dev" "data/${name}_test" -- \
    tse prepare "$name" --root "$corpora/$name" --prefix "${name}_" --out data --skip_bad ${options[$name]-}
done
mixture_stages "./run.sh egs/hifi48k/tse1 --corpora CORPORA"
end_stages
