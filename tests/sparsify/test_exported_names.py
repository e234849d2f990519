import hwsparse.sparsify


def test_the_public_names() -> None:
    assert sorted(hwsparse.sparsify.__all__) == [
        "Evaluator", "LayerStatistics", "Pruner", "QualityReport", "achieved_ratio", "applicable", "apply_plan",
        "collect_statistics", "magnitude", "make_mask", "output_error", "pruned_proto", "reconstruct", "wanda",
    ]  # fmt: skip
    assert all(hasattr(hwsparse.sparsify, name) for name in hwsparse.sparsify.__all__)
