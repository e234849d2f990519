import hwsparse.sparsify


def test_the_public_names() -> None:
    assert sorted(hwsparse.sparsify.__all__) == [
        "Evaluator", "LayerDatabase", "LayerStatistics", "Narrower", "PRUNERS", "PrunedLayer", "Pruner",
        "QualityReport", "Robustness", "Size", "Sizes", "achieved_ratio", "alps", "applicable", "apply_plan",
        "collect_statistics", "correct", "magnitude", "make_mask", "narrowed_shape", "output_error", "pruned_model",
        "pruned_proto", "regroup", "sparsegpt", "wanda",
    ]  # fmt: skip
    assert all(hasattr(hwsparse.sparsify, name) for name in hwsparse.sparsify.__all__)
