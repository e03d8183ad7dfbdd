"""What a frozen model makes of images, texts and rows, computed once and kept under a name made of their content."""

from auditkit.feature_cache.entries import FeatureArray
from auditkit.feature_cache.extraction import Extracted, ExtractionConfig, extract_features, extract_outputs
from auditkit.feature_cache.folders import EntrySummary, cache_folder, find_key, list_entries, remove_entries
from auditkit.feature_cache.ranks import KNOWN, Ranks, current_ranks, hash_together
from auditkit.feature_cache.sources import ImagePreprocessing
from auditkit.images import ImageManifest, read_manifest
from auditkit.texts import TextTable, read_texts

__all__ = [
    "KNOWN",
    "EntrySummary",
    "Extracted",
    "ExtractionConfig",
    "FeatureArray",
    "ImageManifest",
    "ImagePreprocessing",
    "Ranks",
    "TextTable",
    "cache_folder",
    "current_ranks",
    "extract_features",
    "extract_outputs",
    "find_key",
    "hash_together",
    "list_entries",
    "read_manifest",
    "read_texts",
    "remove_entries",
]
