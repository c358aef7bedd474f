"""Everything that measures: run from the checkout as `python -m benchmarks.NAME`; results in `benchmarks/results`."""
