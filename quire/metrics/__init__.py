"""Small numeric metrics, with intervals. Numbers and texts in, numbers out: no torch, no files.

bits.py: nats per token <-> bits per byte. interval.py: bootstrap confidence intervals. compressors.py: what gzip, bzip2 and xz need for
the same text. parses.py: the share of Python samples that the interpreter accepts.
labels.py, spans.py, rank.py: what fine-tuning and evaluation of labels, stretches, answers and similarities report.
rouge.py, bleu.py: how near a text is to the one wanted.
"""
