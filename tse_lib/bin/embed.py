"""tse embed: what a model's speaker encoder makes of every utterance of data sets."""

import argparse

from tqdm import tqdm

from tse_lib import audio
from tse_lib.bin.device import add_device_options
from tse_lib.bin.enroll import load_extractor
from tse_lib.manifest import read_data_dir, write_embeddings


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tse embed",
        description="Write utt2embedding.npz of data sets: the embedding that the speaker encoder of a trained "
        "extractor makes of each utterance, as a whole. Models with speaker: {kind: given} are trained on such a "
        "table, whoever made it, and used with it by tse infer and tse calibrate.",
        epilog="example: tse embed data/train data/dev data/test --model exp/film/best.pt",
    )
    parser.add_argument("data", nargs="+", help="data/<set>, with speech")
    parser.add_argument("--model", required=True, help="best.pt or a packed model folder")
    parser.add_argument("--to", help="folder of the table (default: the data set); that of mixtures whose talkers are "
                        "from another set")  # fmt: skip
    add_device_options(parser)
    args = parser.parse_args(argv)

    if args.to and len(args.data) > 1:
        raise ValueError("--to: one table for one data set; give them one by one")
    extractor = load_extractor(args.model, args)
    for folder in args.data:
        found = {}
        for utt in tqdm(read_data_dir(folder), desc=folder, unit="utt", dynamic_ncols=True):
            wave, rate = audio.read(utt.path, start=utt.start, num_samples=utt.num_samples)
            audio.refuse_silence(wave, utt.utt_id)
            condition = extractor.encode(wave, rate)
            if "embedding" not in condition:
                raise ValueError(
                    f"{args.model}: its condition is {', '.join(sorted(condition))}; a model with a speaker encoder is "
                    "wanted, as conditioned with speaker: {kind: ecapa}"
                )
            found[utt.utt_id] = condition["embedding"][0].cpu().numpy()
        path = write_embeddings(args.to or folder, found)
        print(f"{path}: {len(found)} embeddings of {len(next(iter(found.values())))} numbers")
