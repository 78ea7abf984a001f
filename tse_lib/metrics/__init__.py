"""What the quality of an extraction is measured with. One definition each; numpy; audio in, floats out.

Conventions:
    Signals are `(T,)` float arrays in one time base; the reference comes before the estimate, as in mir_eval.
    Computed in float64. A value in dB is finite: it is clamped to the range its docstring states.
    `Undefined` (a ValueError) is raised where a metric has no value, with the reason; nothing is returned silently.

Metrics:
    sdr: SI-SDR, and SDR, SIR, SAR of BSS Eval v3.
    perceptual: PESQ, STOI, ESTOI.
    presence: attenuation, false accept, confusion; the same by frames where the target speaks for a part.
    detection: the probability, a second, that the wanted talker speaks; its errors at a threshold.
"""
