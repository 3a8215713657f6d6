"""hyperloom against its peers and against hand-written code: `python -m benchmarks`.

Every module with a `CASE` is one row of the report's table, or a few. A case has workloads; a
workload makes contestants that do the same work on the same numbers. `_run` checks that their
results are equal, then times them in turns (A B C A B C ...) and measures the peak memory of
each in a process of its own. `calibrate` fits the constants of hyperloom's cost model.
"""
