"""MDX23C at full size: what a song costs with each switch of ours, and in the loops of other programs.

    tools/bench/separation.py [--rounds 3] [--chunk 523776] [--only NAME …] [--small exp/small/best.pt --set data/test]
                              [--out FOLDER] [--quick]

The network has its 109,376,576 parameters, drawn at random: speed does not depend on what they are. Each side runs in a
process of its own, so that allocators do not meet, one thread each, and the sides take turns. In a round a process runs
its loop over noise until the network has had three chunks; the time from the end of the first to the end of the last,
the loop's own work included, gives CPU seconds (user and system) a chunk. How many chunks three minutes take is counted
by running each loop with a network that does nothing. So `baseline_s` and `ours_s` are CPU seconds of one core for a
second of a three-minute song, and `ratio` is of these; `ratio_per_chunk` leaves the numbers of chunks aside.

The baseline is the predecessor's loop: 8 chunks over a sample, one at a time, float32, glibc's allocator as it comes.
`uncovered` are the samples of the three minutes that a loop leaves without a value. With `--small`, a trained network
separates the mixtures of a set in the same ways: `sdr_db` is the mean SDR over the stems that are there, `sdr_loss_db`
what is lost against the baseline's. `--quick`: 256 frames (130,560 samples), one chunk a round.
"""
