"""Speed benchmarks. `bench/README.md` lists the commands."""
