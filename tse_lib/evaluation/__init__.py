"""Scores of audio files, their summaries, RESULTS.md and the report. Any system can be scored: no model is imported."""
