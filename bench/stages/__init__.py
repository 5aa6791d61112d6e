"""The stages of `bench.device`: each module measures one thing, case by case."""
